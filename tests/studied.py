"""A small workspace from which a study can be made, and readers of it, for tests."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.made_release import publish_made
from medsynth_core.evaluation.study.key import Key, KeyFilm
from medsynth_core.evaluation.study.mosaic import Mosaic
from medsynth_core.progress import silent
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.record import record_release
from medsynth_core.workspace.stages import perform, workspace_paths
from tests.conftest import tiny

SIDE = 32


def study_workspace(root: Path) -> Path:
    """Makes a workspace with a phantom corpus, its labels and a tagged release of 36 made-up images, all of 32 pixels;
    returns its folder."""
    config = tiny().model_copy(update={"store": StoreConfig(url="store")})
    init_workspace(root, config)
    for stage in ("corpus", "vocabulary"):
        perform(stage, config, root, silent)
    about = root / "data" / "corpus" / "corpus.json"
    text, store = about.read_text(), open_store(config.store, root)
    publish_made(config, workspace_paths(root), store, "a" * 32, (18, 18), SIDE)
    about.write_text(text)  # of which made-up releases leave their own
    record_release(root, store)
    return root


def taken_apart(mosaic: Mosaic, n: int) -> np.ndarray:
    """Returns the films of a mosaic as the page's script draws them, uint8 [n, S, S]."""
    films = np.zeros((n, mosaic.side, mosaic.side), dtype=np.uint8)
    for number, strip in enumerate(mosaic.strips):
        pixels = np.asarray(Image.open(io.BytesIO(strip)))
        top = number * mosaic.height
        rows = min(mosaic.height, mosaic.side - top)
        for place in range(n):
            y, x = place // mosaic.columns * rows, place % mosaic.columns * mosaic.side
            films[place, top : top + rows] = pixels[y : y + rows, x : x + mosaic.side]
    return films


def change(path: Path, act: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file by a function that changes what is in it."""
    content = json.loads(path.read_text())
    act(content)
    path.write_text(json.dumps(content))


def key_of(films: Mapping[str, tuple[str, str]]) -> Key:
    """Returns the key of a study.

    Args:
        films: token -> (real or synthetic, findings with commas between).
    """
    listed = [
        KeyFilm(
            film=film,
            origin=origin,
            source=film,
            group=film,
            split="test",
            view="frontal",
            findings=findings.split(","),
        )
        for film, (origin, findings) in films.items()
    ]
    asked = ["no finding", *sorted({name for film in listed for name in film.findings} - {"no finding"})]
    about = {"study": "s1", "release": "r@1", "corpus": "phantom", "licence": "none", "side": 8, "seed": 0}
    return Key(**about, findings=asked, films=listed)


def saved(reader: str, answers: Mapping[str, tuple[str | None, str, int | None]], study: str = "s1") -> dict[str, Any]:
    """Returns what the page saves.

    Args:
        answers: token -> (origin, findings with commas between or "", realism).
    """
    return {
        "format": "medsynth-study-answers",
        "version": 1,
        "study": study,
        "reader": {"name": reader, "role": "radiologist", "years": 7},
        "saved": "2026-01-02T03:04:05.678Z",
        "answers": [
            {
                "film": film,
                "origin": origin,
                "findings": findings.split(",") if findings else [],
                "realism": realism,
                "remark": "",
                "seconds": 10.0 + place,
            }
            for place, (film, (origin, findings, realism)) in enumerate(answers.items())
        ],
    }
