"""Work on many images a part at a time; when a GPU's memory doesn't suffice, parts are halved from there on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache

from medsynth_core.models.memory import is_out_of_memory

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")


class InParts:
    """One kind of work.

    Attributes:
        at_once: images a part; becomes less where memory lacks.
    """

    def __init__(self, done: str, at_once: int, beside: torch.cuda.Stream | None = None) -> None:
        """Takes what is done, for the log, and the stream that it is queued on."""
        self.at_once = at_once
        self._done = done
        self._beside = beside

    def __call__(self, images: int, call: Callable[[slice], _Found]) -> list[_Found]:
        """Returns what ``call`` finds in each part of so many images, in order."""
        found: list[_Found] = []
        start = 0
        with torch.cuda.stream(self._beside):
            while start < images:
                stop = min(start + self.at_once, images)
                try:
                    found.append(call(slice(start, stop)))
                    start = stop
                    continue
                except RuntimeError as error:
                    if stop - start == 1 or not is_out_of_memory(error):
                        raise
                # Only now is the error, and with it what its frames held, gone.
                self.at_once = half(stop - start, self._done)
        return found


def half(images: int, done: str) -> int:
    """Makes room where memory lacked for ``images`` at once; returns how many to try next."""
    log.warning("out of memory for %d images %s at once; %d from here on", images, done, images // 2)
    clear_device_cache(garbage_collection=True)
    return images // 2
