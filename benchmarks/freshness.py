"""How long it takes to see that nothing has to be done: the decisions of all stages over a corpus of some GB, when no
file was hashed before, and again.

``python -m benchmarks.freshness --gb 3``
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from medsynth_core.workspace.params import configure
from medsynth_core.workspace.stages import STAGES, is_fresh, mark_fresh, workspace_paths
from medsynth_core.workspace.tree import Config

_SIDE, _IMAGES_A_CHUNK = 256, 1024
_LIMIT_S = 2.0
_SMALL_BYTES = 20_000_000


def main(
    gb: Annotated[float, typer.Option(help="Size of the corpus' images.")] = 3.0,
    out: Annotated[Path | None, typer.Option(help="Where to make it; a folder that is deleted, when left out.")] = None,
) -> None:
    """Prints the seconds of the first and of the second decision, and their ratio."""
    with tempfile.TemporaryDirectory(dir=out) as folder:
        root, config = Path(folder), configure([])
        chunks = made(root, config, gb)
        for stage in STAGES:
            mark_fresh(stage.name, config, root, {})
        workspace_paths(root).digests.path.unlink()  # type: ignore[union-attr]
        first, second = decided(root, config), decided(root, config)
        print(
            f"{chunks} chunks, {gb:g} GB, {len(STAGES)} stages: first {first:.2f} s, second {second:.3f} s, "
            f"ratio {first / second:.0f}"
        )
        if second >= _LIMIT_S:
            raise typer.Exit(1)


def made(root: Path, config: Config, gb: float) -> int:
    """Writes outputs of all stages, the corpus of so many GB; returns its chunks."""
    paths = workspace_paths(root, config)
    for stage in STAGES:
        paths[stage.name].mkdir(parents=True)
        size = _SMALL_BYTES if stage.trains else 1000
        (paths[stage.name] / "output").write_bytes(np.random.default_rng(0).bytes(size))
        for path in (*stage.metrics, *stage.plots):
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_text(json.dumps({}))
    chunk = np.random.default_rng(1).integers(0, 255, (_IMAGES_A_CHUNK, _SIDE, _SIDE), dtype=np.uint8)
    count = max(1, round(gb * 1e9 / chunk.nbytes))
    for number in range(count):
        np.save(paths["corpus"] / f"images-{number:05d}.npy", chunk)
    return count


def decided(root: Path, config: Config) -> float:
    """Returns the seconds until all stages are known to be up to date."""
    began = time.perf_counter()
    assert all(is_fresh(stage.name, config, root) for stage in STAGES)
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)
