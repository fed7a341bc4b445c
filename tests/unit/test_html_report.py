import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medsynth_core.evaluation.html_report import write_html
from medsynth_core.release.reader import open_release
from medsynth_core.storage.manifest import parquet_bytes, table_of

ABOUT: dict[str, Any] = {
    "name": "made-up",
    "generator_version": "0",
    "spec_hash": "abc",
    "model_digests": {"vqgan": "1" * 64},
    "counts": {"requested": 8, "accepted": 5, "rejected": {"degenerate:blank": 2}, "failed": {"StoreError": 1}},
    "prompts": {"provider": "template", "requested": 4, "accepted": 3, "rejected": {"off topic": 1}},
    "corpus": {"kind": "phantom", "licence": "none"},
    "pathologies": {"effusion": 3, "no finding": 2},
    "sampling": {"temperature": 1.0},
    "quality": {"min_contrast": 8.0},
}
ROW: dict[str, Any] = {
    "image_id": "0" * 24,
    "prompt": "Small <script>alert(1)</script> effusion.",
    "pathology": ["effusion"],
    "labels": [{"pathology": "effusion", "anatomy": "pleura", "side": "left", "severity": "small"}],
    "keypatch_words": ["effusion", "left", "effusion"],
    "score_agreement": 0.25,
    "verdict": "accepted",
}
ORACLE = [
    {
        "pathology": "effusion",
        "n_with": 3,
        "n_without": 0,
        "found_with": 0.9,
        "found_without": None,
        "balanced_accuracy": None,
        "side_correct": None,
    }
]


class Page(HTMLParser):
    """Text and addresses of a page; balance of its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "img", "input", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page(
    folder: Path, about: dict[str, Any] = ABOUT, row: dict[str, Any] = ROW, oracle: Any = ORACLE, evaluation: Any = None
) -> Page:
    source = folder / "dataset"
    for kind, rows in (("manifest", [row]), ("rejected", [{**row, "reasons": ["degenerate:blank"]}] * 150)):
        (source / kind).mkdir(parents=True)
        (source / kind / "part-00000.parquet").write_bytes(parquet_bytes(table_of(rows)))
    (source / "release.json").write_text(json.dumps(about))
    png = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(png, format="PNG")
    release = open_release(source)
    gallery = [(row, png.getvalue()) for row in release.manifest().to_pylist()]
    write_html(release, gallery, oracle, folder / "report.html", evaluation)
    parsed = Page((folder / "report.html").read_text("utf-8"))
    assert parsed.open == []
    return parsed


def test_it_says_what_it_is_and_accounts_for_every_image(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert "Every image here is synthetic" in text
    assert "procedural phantoms" in text
    for line in (
        "requested 8",
        "accepted 5 62.5 %",
        "degenerate:blank 2 25.0 %",
        "StoreError 1",
        "1 rejected (off topic)",
    ):
        assert line in text
    assert "small left effusion" in text
    assert "150 images , the first 100 shown" in text.replace("images,", "images ,")


def test_it_needs_no_other_file_and_runs_no_prompt(tmp_path: Path) -> None:
    parsed = page(tmp_path)
    assert [address for address in parsed.addresses if not address.startswith("data:image/png;base64,")] == []
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "<script>alert" not in html
    assert "http" not in html


def test_unknown_scores_are_dashes(tmp_path: Path) -> None:
    text = page(tmp_path, row={**ROW, "score_agreement": None}).text
    assert "agreement –, distance to the nearest training image –" in text
    assert "effusion 3 0.90 – – –" in text
    assert "nan" not in text.lower().split()


@pytest.mark.parametrize(("terms", "shown"), [(["mass"], "accepted mass"), ([], "accepted no finding")])
def test_without_labels_the_pathology_is_shown(tmp_path: Path, terms: list[str], shown: str) -> None:
    assert shown in page(tmp_path, row={**ROW, "labels": [], "pathology": terms}).text


def test_a_real_corpus_has_neither_oracle_nor_phantom(tmp_path: Path) -> None:
    about = {**ABOUT, "corpus": {"kind": "openi", "licence": "unknown"}, "pathologies": {}}
    text = page(tmp_path, about, oracle=[]).text
    assert "oracle" not in text
    assert "phantom" not in text


def test_figures_stand_beside_those_of_real_images(tmp_path: Path) -> None:
    row = {"extractor": "classifier", "label": None, "n": 30, "n_held_out": 25, "reason": None}
    kid = {"metric": "kid", "value": 0.00125, "low": -0.0005, "high": 0.003, "real": 0.0001}
    none = {"metric": "fid", "value": None, "reason": "no more images than features (96)"}
    draws = {"real_low": 0.0, "real_high": 0.0002}
    figures = [row | kid | draws, row | none, row | kid | draws | {"label": "effusion", "low": None}]
    evaluation = {"n_synthetic": 30, "n_held_out": 25, "figures": figures}
    text = page(tmp_path, evaluation=evaluation).text
    assert "KID × 1000 ↓ classifier 1.25 -0.50 to 3.00 0.10 0.00 to 0.20" in text
    assert "FID ↓ classifier none: no more images than features (96)" in text
    assert "effusion 30 25 1.25 0.10" in text
    assert "its features flatter" in text
    assert "t-SNE" not in text
