"""Phantom images a second on one core, reports included."""

from __future__ import annotations

import time

from medsynth_core.corpus.phantom import phantom_study


def main() -> None:
    """Prints images/s at two sizes."""
    for size, n in ((64, 1500), (256, 150)):
        phantom_study(0, 0, size).views[0].load()
        start = time.perf_counter()
        for index in range(n):
            phantom_study(0, index, size).views[0].load()
        print(f"{size} x {size}: {n / (time.perf_counter() - start):.0f} images/s")


if __name__ == "__main__":
    main()
