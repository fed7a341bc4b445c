"""The local store: a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from medsynth_core.errors import DiskError, StoreError
from medsynth_core.storage.atomic import NO_ROOM
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import StoredObject, check_key

_UNFINISHED = ".new."


class LocalStore:
    """Objects are files below ``root``; a write is a temporary file that is renamed or linked into place."""

    is_dvc_cache = True

    def __init__(self, root: Path, dvc_url: str | None = None) -> None:
        """``dvc_url`` is where DVC finds the folder from ``.dvc``, if not by its path."""
        self.root = root
        self.url = str(root)
        self.dvc_remote: Mapping[str, str] = {"url": dvc_url or self.url}

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise self._refusal(key, error) from error

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        return map(self.get, keys)

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
        yield from self._among(
            path
            for path in folder.rglob("*")
            if self._key(path).startswith(prefix) and not path.name.startswith(_UNFINISHED) and path.is_file()
        )

    def unfinished(self) -> Iterator[StoredObject]:
        yield from self._among(self.root.rglob(f"{_UNFINISHED}*"))

    def discard(self, unfinished: StoredObject) -> None:
        self.delete(unfinished.key)

    def _among(self, paths: Iterable[Path]) -> Iterator[StoredObject]:
        """Yields what files are, sorted by key as S3 sorts; a path compares by its parts, which is another order."""
        for path in sorted(paths, key=self._key):
            try:
                about = path.stat()
            except FileNotFoundError:  # it went meanwhile
                continue
            yield StoredObject(self._key(path), about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise self._refusal(key, error) from error

    def check_writable(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.root, prefix=_UNFINISHED)
            os.close(handle)
        except OSError as error:
            kind = DiskError if error.errno in NO_ROOM else StoreError
            raise kind(
                f"store {self.url}: can't be written ({error.strerror}); set store.url to a writable place"
            ) from error
        link = Path(f"{name}.link")
        try:
            os.link(name, link)
        except OSError as error:
            raise StoreError(
                f"store {self.url}: its file system makes no hard links ({error.strerror}), by which a record is "
                "written once; set store.url to a folder on one that does"
            ) from error
        finally:
            link.unlink(missing_ok=True)
            Path(name).unlink(missing_ok=True)

    @property
    def folder(self) -> Path:
        return self.root

    def link_to(self, key: str) -> None:
        return None  # a browser opens no file that another page names

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _refusal(self, key: str, error: OSError) -> StoreError:
        if error.errno in NO_ROOM:
            return DiskError(f"store {self.url}: {key}: {error.strerror}; make room, or set store.url to another disk")
        reason = "no such object" if isinstance(error, FileNotFoundError) else error.strerror
        return StoreError(f"store {self.url}: {key}: {reason}")


def open_url(config: StoreConfig, root: Path) -> LocalStore:
    """Returns the store of a path, a relative one below ``root``."""
    place = Path(config.url).expanduser()
    return LocalStore((root / place).resolve(), str(place) if place.is_absolute() else f"../{place.as_posix()}")
