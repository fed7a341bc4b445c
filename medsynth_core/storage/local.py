"""The local store: a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from medsynth_core.errors import StoreError
from medsynth_core.storage.store import StoredObject, check_key

_UNFINISHED = ".new."


class LocalStore:
    """Objects are files below ``root``; a write is a temporary file that is renamed or linked into place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise self._refusal(key, error) from error

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        try:
            with self._path(key).open("rb") as stream:
                stream.seek(offset)
                return stream.read(size)
        except OSError as error:
            raise self._refusal(key, error) from error

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refusal(key, error) from error

    def sizes(self, folder: str, keys: Sequence[str]) -> Iterator[tuple[str, int | None]]:
        return ((key, self.size(key)) for key in keys)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.chmod(0o644)
                if not if_absent:
                    temporary.replace(path)
                    return True
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self._refusal(key, error) from error
        return True

    def list(self, prefix: str) -> Iterator[StoredObject]:
        folder = self.root / prefix.rpartition("/")[0]
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith(_UNFINISHED):
                found = self._stored(path)
                if found is not None and found.key.startswith(prefix):
                    yield found

    def unfinished(self) -> Iterator[StoredObject]:
        for path in sorted(self.root.rglob(f"{_UNFINISHED}*")):
            found = self._stored(path)
            if found is not None:
                yield found

    def discard(self, unfinished: StoredObject) -> None:
        self.delete(unfinished.key)

    def _stored(self, path: Path) -> StoredObject | None:
        """Returns what a file is, or None when it went meanwhile."""
        try:
            about = path.stat()
        except FileNotFoundError:
            return None
        modified = datetime.fromtimestamp(about.st_mtime, UTC)
        return StoredObject(path.relative_to(self.root).as_posix(), about.st_size, modified)

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise self._refusal(key, error) from error

    def check_writable(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise StoreError(
                f"store {self.url}: can't be written ({error.strerror}); set store.url to a writable place"
            ) from error

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _refusal(self, key: str, error: OSError) -> StoreError:
        reason = "no such object" if isinstance(error, FileNotFoundError) else error.strerror
        return StoreError(f"store {self.url}: {key}: {reason}")
