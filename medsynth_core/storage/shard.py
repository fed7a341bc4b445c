"""Shards: webdataset tars with the same bytes for the same images (contract C3)."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_label_bytes = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
_SIZE, _SUM = slice(124, 136), slice(148, 156)
"""Where a header holds its member's size and its own checksum, as octal digits."""


@dataclass
class ShardWriter:
    """Collects the images of one shard in memory and lays them out sorted by image id.

    The tar carries no time, no owner and no mode but 0644, so its bytes depend on its images alone.
    """

    _members: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def add(self, image_id: str, png: bytes, label: Mapping[str, Any]) -> None:
        """Adds ``<image_id>.png`` and ``<image_id>.json``."""
        self.add_raw(image_id, png, _label_bytes(dict(label)).encode())

    def add_raw(self, image_id: str, png: bytes, label: bytes) -> None:
        """Adds an image with its label as JSON bytes."""
        self._members[image_id] = (png, label)

    def finish(self) -> tuple[bytes, dict[str, tuple[int, int]]]:
        """Returns the tar and, by image id, (offset, size) of the PNG's bytes in it.

        Raises:
            ValueError: an image id is longer than a header has room for.
        """
        blocks: list[bytes] = []
        places = {}
        end = 0
        for image_id, (png, label) in sorted(self._members.items()):
            for suffix, data in (("json", label), ("png", png)):
                blocks += (
                    _header(f"{image_id}.{suffix}".encode(), len(data)),
                    data,
                    bytes(-len(data) % tarfile.BLOCKSIZE),
                )
                start = end + tarfile.BLOCKSIZE
                end = start + len(data) + len(blocks[-1])
            places[image_id] = (start, len(png))
        closing = end + 2 * tarfile.BLOCKSIZE
        blocks.append(bytes(2 * tarfile.BLOCKSIZE + -closing % tarfile.RECORDSIZE))
        return b"".join(blocks), places


def _blank() -> bytes:
    info = tarfile.TarInfo()
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


_BLANK = _blank()
_BLANK_SUM = 8 * ord(" ") + sum(_BLANK[: _SUM.start]) + sum(_BLANK[_SUM.stop :]) - sum(_BLANK[_SIZE])


def _header(name: bytes, size: int) -> bytes:
    """Returns what ``TarInfo.tobuf`` does; most of it is the same for all members, and small images are mostly that."""
    if len(name) > tarfile.LENGTH_NAME:
        raise ValueError(f"{name.decode()}: {len(name)} bytes; a header has room for {tarfile.LENGTH_NAME}")
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_BLANK_SUM + sum(name) + sum(digits))
    middle, rest = _BLANK[tarfile.LENGTH_NAME : _SIZE.start], _BLANK[_SIZE.stop : _SUM.start]
    return b"".join((name.ljust(tarfile.LENGTH_NAME, b"\0"), middle, digits, rest, checksum, _BLANK[_SUM.stop :]))
