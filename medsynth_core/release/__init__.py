"""Releases: publishing, reading and verifying versioned datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsynth_core.release.items import collate
    from medsynth_core.release.reader import Release, open_release

__all__ = ["Release", "collate", "open_release"]


def __getattr__(name: str) -> Any:
    """Loads the reader, and for ``collate`` torch with it, on first use."""
    if name == "collate":
        from medsynth_core.release import items

        return items.collate
    if name in __all__:
        from medsynth_core.release import reader

        return getattr(reader, name)
    raise AttributeError(name)
