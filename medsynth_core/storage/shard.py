"""Shards: webdataset tars with the same bytes for the same images (contract C3)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ShardWriter:
    """Collects the images of one shard in memory and lays them out sorted by image id.

    The tar carries no time, no owner and no mode but 0644, so its bytes depend on its images alone.
    """

    _members: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def add(self, image_id: str, png: bytes, label: Mapping[str, Any]) -> None:
        """Adds ``<image_id>.png`` and ``<image_id>.json``."""
        self.add_raw(image_id, png, json.dumps(dict(label), sort_keys=True, ensure_ascii=False).encode())

    def add_raw(self, image_id: str, png: bytes, label: bytes) -> None:
        """Adds an image with its label as JSON bytes."""
        self._members[image_id] = (png, label)

    def finish(self) -> tuple[bytes, dict[str, tuple[int, int]]]:
        """Returns the tar and, by image id, (offset, size) of the PNG's bytes in it."""
        stream = io.BytesIO()
        places = {}
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for image_id, (png, label) in sorted(self._members.items()):
                for suffix, data in (("json", label), ("png", png)):
                    info = tarfile.TarInfo(f"{image_id}.{suffix}")
                    info.size = len(data)
                    info.mode = 0o644
                    if suffix == "png":
                        places[image_id] = (stream.tell() + tarfile.BLOCKSIZE, len(data))
                    tar.addfile(info, io.BytesIO(data))
        return stream.getvalue(), places
