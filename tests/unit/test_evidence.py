"""The page of evidence: what it claims follows from the figures."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import page
from benchmarks.rivals import AT_LEISURE, DIFFUSION, MEDSYNTH, NEAREST, REAL, Figures

DOCS = Path(__file__).parents[2] / "docs"
USUAL = Figures(0.9, None, 0.05, 0.001, 0.9, 0.6, 1.0, 0.8, 0.5, "", 2.0, 100.0, 0.1, 1e6)


def rivals(**changed: list[Figures]) -> dict[str, Any]:
    seeds = [replace(USUAL, found=USUAL.found + step) for step in (0.0, 0.01, -0.01)]
    names = {"medsynth": MEDSYNTH, "diffusion": DIFFUSION, "leisure": AT_LEISURE, "nearest": NEAREST, "real": REAL}
    rows = {full: changed.get(short, seeds) for short, full in names.items()}
    return {name: [asdict(each) for each in of_seeds] for name, of_seeds in rows.items()}


def shifted(by: float, **more: Any) -> list[Figures]:
    return [replace(USUAL, found=USUAL.found + by + step, **more) for step in (0.001, 0.01, -0.01)]


def row(setting: str, auroc: float, gain: tuple[float, float, float], rare: str | None = None) -> dict[str, Any]:
    gains = {name: list(gain) for name in ("real", "real, duplicated", "real, augmented") if name != setting}
    return {
        "setting": setting, "real_share": 0.1, "ratio": 1.0, "rare": rare, "tested_on": "held-out", "n_real": 100,
        "n_synthetic": 100, "auroc": auroc, "interval": [auroc - 0.01, auroc + 0.01], "gains": gains,
        "calibration_error": [0.1, 0.05, 0.15], "by_pathology": {},
    }  # fmt: skip


def films(gain: tuple[float, float, float], of_rare: tuple[float, float, float]) -> dict[str, Any]:
    rows = [row("real", 0.8, (0.0, -0.1, 0.1)), row("real + synthetic", 0.85, gain)]
    rows += [row("real", 0.7, (0.0, -0.1, 0.1), "pneumonia"), row("real + synthetic", 0.75, of_rare, "pneumonia")]
    return {"release": "v1", "seeds": 5, "steps": 240, "rows": rows}


def in_a_line(text: str) -> str:
    """Returns prose as it was before it was wrapped."""
    return " ".join(text.split())


def told(**parts: Any) -> str:
    return page({name.replace("_", "-"): {"seconds": 60.0, "found": found} for name, found in parts.items()})


@pytest.mark.parametrize(
    ("by", "said"), [(0.05, "medsynth ahead"), (-0.05, "diffusion ahead"), (0.0, "no difference beyond chance")]
)
def test_a_difference_is_claimed_beyond_chance_only(by: float, said: str) -> None:
    text = told(rivals_phantoms=rivals(medsynth=shifted(by)))
    line = next(line for line in text.splitlines() if line.startswith("| prompted findings |"))
    assert line.endswith(f"| {said} |")


def test_less_is_better_of_a_distance() -> None:
    text = told(rivals_films=rivals(medsynth=[replace(USUAL, fid=0.01 + step) for step in (0.0, 0.001, 0.002)]))
    assert next(line for line in text.splitlines() if line.startswith("| FID |")).endswith("| medsynth ahead |")


def test_what_the_nearest_neighbour_would_have_won() -> None:
    copied = [replace(each, precision=0.99, kid=0.0, refused="membership_tpr") for each in shifted(-0.1)]
    text = in_a_line(told(rivals_films=rivals(nearest=copied)))
    assert "would have won KID x 1000, precision among" in text
    assert "refuses it, for `membership_tpr`" in text
    let_through = [replace(copied[0], refused=""), *copied[1:]]
    assert "**publishes it for some seed**" in in_a_line(told(rivals_films=rivals(nearest=let_through)))


@pytest.mark.parametrize(
    ("gain", "of_rare", "said"),
    [
        ((0.05, 0.01, 0.09), (0.05, 0.01, 0.09), "adding medsynth's images beats"),
        ((0.05, -0.01, 0.11), (0.05, 0.01, 0.09), "aren't shown to help a trainer of real films: on 10 %"),
        ((0.05, 0.01, 0.09), (0.05, -0.01, 0.11), "with a rare finding, adding them doesn't"),
    ],
)
def test_the_first_line_says_whether_images_beat_copies(
    gain: tuple[float, float, float], of_rare: tuple[float, float, float], said: str
) -> None:
    assert said in in_a_line(told(films=films(gain, of_rare)).split("\n\n")[1])


def test_without_films_nothing_is_claimed_of_them() -> None:
    assert "wasn't measured here" in in_a_line(told(rivals_phantoms=rivals()).split("\n\n")[1])


def test_the_page_in_the_docs_is_of_its_figures() -> None:
    evidence = json.loads((DOCS / "evidence.json").read_text("utf-8"))
    assert (DOCS / "evidence.md").read_text("utf-8") == page(evidence)
