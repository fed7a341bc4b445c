"""Releases: publishing, reading and verifying versioned datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsynth_core.release.reader import Release, open_release

__all__ = ["Release", "open_release"]


def __getattr__(name: str) -> Any:
    """Loads the reader, and torch with it, on first use."""
    if name in __all__:
        from medsynth_core.release import reader

        return getattr(reader, name)
    raise AttributeError(name)
