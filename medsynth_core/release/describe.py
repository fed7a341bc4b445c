"""The description of a release: a card for people, Croissant and JSON Schema for machines."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from medsynth_core.release.card import write_card
from medsynth_core.release.croissant import write_croissant
from medsynth_core.release.facts import About, forbids_derivatives
from medsynth_core.release.schema import manifest_schema
from medsynth_core.storage.content import ObjectRef

log = logging.getLogger(__name__)


def describe(about: About, files: Sequence[ObjectRef]) -> dict[str, bytes]:
    """Returns README.md, schema.json and croissant.json by name; the same release gives the same bytes.

    Args:
        about: ``release.json``.
        files: all other files of the release.
    """
    licence = about["corpus"]["licence"]
    if forbids_derivatives(licence):
        log.warning(
            "release: the corpus' licence forbids derivatives (%s); see README.md before you pass it on", licence
        )
    texts = {"README.md": write_card(about).encode(), "schema.json": _json(manifest_schema())}
    every = sorted([*files, *(_ref(name, data) for name, data in texts.items())], key=lambda ref: ref.relpath)
    return texts | {"croissant.json": _json(write_croissant(about, every))}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _ref(name: str, data: bytes) -> ObjectRef:
    return ObjectRef(relpath=name, md5=hashlib.md5(data, usedforsecurity=False).hexdigest(), size=len(data))
