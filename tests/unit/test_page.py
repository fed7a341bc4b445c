"""What the page of a release says, read as text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsynth_core.evaluation.page.earlier import Earlier
from medsynth_core.evaluation.page.gallery import GalleryImage, Neighbour, gallery_rows
from medsynth_core.evaluation.page.histogram import HEIGHT, WIDTH, histograms
from medsynth_core.evaluation.page.rejected import rejected_images
from medsynth_core.evaluation.page.render import PageContent, write_page
from medsynth_core.manifest import table_of
from medsynth_core.release.reader import open_release
from medsynth_core.storage.completion import Counts
from medsynth_core.storage.index import ReleaseEntry
from medsynth_core.storage.parquet import parquet_bytes

ABOUT: dict[str, Any] = {
    "name": "made-up",
    "generator_version": "0",
    "spec_hash": "abc",
    "model_digests": {"vqgan": "1" * 64},
    "own_models": True,
    "counts": {"requested": 8, "accepted": 5, "rejected": {"degenerate:blank": 2}, "failed": {"StoreError": 1}},
    "prompts": {"provider": "template", "requested": 4, "accepted": 3, "rejected": {"off topic": 1}},
    "corpus": {"kind": "phantom", "licence": "none", "studies": {"train": 4}, "views": {"train": 5}},
    "pathologies": {"effusion": 3, "no finding": 2},
    "sides": {"left": 3},
    "severities": {"small": 3},
    "views": {"frontal": 5},
    "sampling": {"temperature": 1.0, "batch_size": None},
    "quality": {
        "enabled": ["degenerate", "noise"],
        "margin": 0.5,
        "degenerate": {"min_contrast": 8.0, "quantile": 0.005},
        "noise": {"quantile": 0.01},
    },
    "bounds": {"noise": 2.5},
    "parent": None,
    "runs": [{"spec_hash": "abc", "run_ids": ["abc-1"], "model_digests": {"vqgan": "1" * 64}}],
}
ROW: dict[str, Any] = {
    "image_id": "0" * 24,
    "prompt_id": "p0",
    "prompt": "Small <script>alert(1)</script> effusion.",
    "pathology": ["effusion"],
    "labels": [{"pathology": "effusion", "anatomy": "pleura", "side": "left", "severity": "small"}],
    "keypatch_words": ["effusion", "left", "effusion"],
    "keypatch_ids": [7, 8, 9],
    "score_agreement": 0.25,
    "score_contrast": 3.0,
    "signature": bytes(256),
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
FIGURE = {"extractor": "classifier", "label": None, "n": 30, "n_held_out": 25, "reason": None}
KID = FIGURE | {"metric": "kid", "value": 0.00125, "low": -0.0005, "high": 0.003, "real": 0.0001}
DRAWS = {"real_low": 0.0, "real_high": 0.0002}
PRIVATE = {
    "metric": "near_copies",
    "space": "pixels",
    "n": 30,
    "n_held_out": 25,
    "value": 0.02,
    "low": 0.0,
    "high": 0.05,
    "real": 0.01,
    "real_low": None,
    "real_high": None,
    "limit": 0.1,
    "reason": None,
}
FIDELITY = {
    "metric": "fidelity",
    "space": "spectrum",
    "side": "synthetic",
    "against": "real",
    "n": 30,
    "n_held_out": 25,
    "value": 0.25,
    "low": 0.1,
    "high": 0.4,
    "real": 0.95,
    "real_low": 0.9,
    "real_high": 0.98,
    "floor": 0.5,
    "reason": None,
}


class Parsed(HTMLParser):
    """Text and addresses of a page; balance of its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.skipped = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.skipped = tag in {"script", "style", "title"}
        if tag not in {"meta", "img", "input", "br", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.skipped = False

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def before(metrics: dict[str, Any] | None) -> Earlier:
    entry = ReleaseEntry(
        tag="made-up-v1",
        dir_md5="0.dir",
        n_files=1,
        n_bytes=1,
        counts=Counts(requested=4, accepted=3, rejected={"noise:high": 1}),
        spec_hash="abc",
        parent=None,
        commit="0",
        generator_version="0",
    )
    return Earlier(entry, metrics)


def page(folder: Path, about: dict[str, Any] = ABOUT, row: dict[str, Any] = ROW, **content: Any) -> Parsed:
    source = folder / "dataset"
    n_accepted, n_rejected = about["counts"]["accepted"], sum(about["counts"]["rejected"].values())
    rejected = [{**row, "image_id": f"{n:024}", "reasons": ["degenerate:blank"]} for n in range(n_rejected)]
    accepted = [row, *({**row, "image_id": f"{n:024x}"} for n in range(1, n_accepted))]
    for kind, rows in (("manifest", accepted), ("rejected", rejected)):
        (source / kind).mkdir(parents=True)
        (source / kind / "part-00000.parquet").write_bytes(parquet_bytes(table_of(rows)))
    (source / "release.json").write_text(json.dumps(about))
    release = open_release(source)
    grey = np.zeros((8, 8), dtype=np.uint8)
    gallery = [GalleryImage(each, grey, (5, 2, 5)) for each in gallery_rows(release, 9)[:1]]
    shown = {"gallery": gallery, "oracle": ORACLE, "neighbours": "None shown."} | content
    write_page(
        PageContent(release, rejected=rejected_images(release, 12), grid_side=4, **shown), folder / "report.html"
    )
    parsed = Parsed((folder / "report.html").read_text("utf-8"))
    assert parsed.open == []
    return parsed


def test_it_says_what_it_is_and_accounts_for_every_image(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert "Every image here is synthetic" in text
    assert "procedural phantoms" in text
    for line in (
        "requested 8",
        "accepted 5 62.5 %",
        "rejected almost one grey degenerate:blank 2 25.0 %",
        "StoreError 1",
        "1 rejected (off topic)",
        "effusion 3 no finding 2",
        "frontal 5",
    ):
        assert line in text
    assert "small left effusion" in text


def test_it_needs_no_other_file_and_runs_no_prompt(tmp_path: Path) -> None:
    parsed = page(tmp_path)
    assert [address for address in parsed.addresses if not address.startswith(("data:", "#"))] == []
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "<script>alert" not in html
    assert re.findall(r"https?://|url\(|@import", html) == []


def test_unknown_scores_are_dashes(tmp_path: Path) -> None:
    text = page(tmp_path, row={**ROW, "score_agreement": None}).text
    assert "agreement with the prompt – distance to training images –" in text
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
    none = FIGURE | {"metric": "fid", "value": None, "reason": "no more images than features (96)"}
    rows = [KID | DRAWS, none, KID | DRAWS | {"label": "effusion", "low": None}]
    text = page(tmp_path, evaluation={"n_synthetic": 30, "n_held_out": 25, "figures": rows}).text
    assert "KID × 1000 ↓ classifier 1.25 -0.50 to 3.00 0.10 0.00 to 0.20" in text
    assert "FID ↓ classifier none: no more images than features (96)" in text
    assert "effusion 30 25 1.25 0.10" in text
    assert "its features flatter" in text
    assert "no earlier release" in text
    assert "t-SNE" not in text


def test_figures_stand_beside_those_of_the_release_before(tmp_path: Path) -> None:
    old = {"evaluation": {"figures": [KID | {"value": 0.004}]}, "model_digests": {"vqgan": "2" * 64}}
    old |= {"oracle": [{"pathology": "effusion", "balanced_accuracy": 0.7}], "privacy": {"figures": [PRIVATE]}}
    about = {**ABOUT, "privacy": {"figures": [PRIVATE | {"value": 0.04}]}}
    evaluation = {"n_synthetic": 30, "n_held_out": 25, "figures": [KID | DRAWS, KID | {"metric": "recall"}]}
    text = page(tmp_path, about, evaluation=evaluation, earlier=[before(old)]).text
    assert "figure this release made-up-v1 real" in text
    assert "1.25 -0.50 to 3.00 4.00 -0.50 to 3.00 0.10" in text
    assert "recall ↑ classifier 0.00 0.00 to 0.00 – 0.00" in text, "no such figure was taken of the last one"
    assert "The models of made-up-v1 were others" in text
    assert "effusion 3 0.90 – – – 0.70" in text
    assert "accepted 5 62.5 % 75.0 %" in text
    assert "noisy noise:high 0 0.0 % 25.0 %" in text, "a reason that only the last one had"
    assert "near-copies of training images ↓ thumbnails, 30 4.0 % 0.0 to 5.0 % 2.0 %" in text


def test_a_release_whose_page_was_not_recorded_is_told(tmp_path: Path) -> None:
    evaluation = {"n_synthetic": 30, "n_held_out": 25, "figures": [KID | DRAWS]}
    text = page(tmp_path, evaluation=evaluation, earlier=[before(None)]).text
    assert "No figures of made-up-v1 were recorded" in text
    assert "to 3.00 – 0.10" in text


def test_a_figure_that_is_not_known_goes_by_its_name(tmp_path: Path) -> None:
    odd = {"metric": "anatomy_f1", "extractor": "judge", "label": None, "value": 0.876}
    alone = {"metric": "pathology_f1", "extractor": "other", "label": "effusion", "value": 0.5, "real": 0.75}
    text = page(tmp_path, evaluation={"n_synthetic": 30, "n_held_out": 25, "figures": [odd, alone]}).text
    assert "anatomy f1 judge 0.876 –" in text
    assert "finding images pathology f1 effusion 0.5 0.75" in text


def test_privacy_stands_beside_held_out_images_and_its_limit(tmp_path: Path) -> None:
    odd = PRIVATE | {"metric": "new_thing", "space": "elsewhere", "value": None, "reason": "no space"}
    sides = {"edges": [0.0, 0.1, 0.2], "synthetic": [0.25, 0.75], "held_out": [1.0, 0.0]}
    about = {**ABOUT, "privacy": {"figures": [PRIVATE, odd], "histograms": {"pixels": sides}}}
    text = page(tmp_path, about).text
    assert "near-copies of training images ↓ thumbnails, 30 2.0 % 0.0 to 5.0 % 1.0 % 10.0 %" in text
    assert "new thing elsewhere, 30 none: no space" in text
    html = (tmp_path / "report.html").read_text()
    assert f'class="held" d="M0.0 {HEIGHT}V0.0H180.0V{HEIGHT}.0H360.0V{HEIGHT}"' in html


def test_every_attacker_has_words(tmp_path: Path) -> None:
    skill = PRIVATE | {"metric": "verification_auc", "space": "reidentification", "value": 0.86, "n": 40}
    likely = PRIVATE | {"metric": "likelihood_auc", "space": "models", "value": 0.75, "limit": None}
    text = page(tmp_path, {**ABOUT, "privacy": {"figures": [skill, likely], "histograms": {}}}).text
    assert "films of one patient told from films of two, AUC a network that re-identifies patients, 40 0.860" in text
    assert "attack with the models at hand: AUC of telling training images ↓ the language model itself" in text


def test_how_real_it_looks_comes_first(tmp_path: Path) -> None:
    told = FIDELITY | {"metric": "told_apart", "value": 0.995, "low": 0.98, "high": 1.0, "real": 0.5}
    told |= {"real_low": None, "real_high": None, "floor": None}
    spectra = {"frequency": [1, 2, 3], "synthetic": [2.0, 1.0, 0.0], "rendered": [2.0, 1.0, 0.5], "real": [2.0, 1.5, 1]}
    about = {**ABOUT, "fidelity": {"figures": [told, FIDELITY], "spectra": spectra}}
    earlier = before({"fidelity": {"figures": [FIDELITY | {"value": 0.5}]}})
    text = page(tmp_path, about, earlier=[earlier]).text
    assert text.index("Does it look like a real film?") < text.index("What is in it")
    assert "The images are told at a glance from phantoms that no model learnt from" in text
    assert "images told from real films, AUC ↓ spectra, 30 0.995 0.980 to 1.000 – 0.500 –" in text
    assert (
        "images within the range of real films ↑ spectra, 30 25.0 % 10.0 to 40.0 % 50.0 % 10.0 to 40.0 % 95.0 %" in text
    )
    html = (tmp_path / "report.html").read_text()
    assert f'class="made" d="M0 {HEIGHT}L0.0 0.0L{WIDTH / 2:.1f} {HEIGHT / 2:.1f}L' in html


def test_a_release_that_is_older_than_fidelity_has_a_page(tmp_path: Path) -> None:
    text = page(tmp_path / "a").text
    assert "Does it look like a real film? How far the images look like real films was not measured." in text
    none = FIDELITY | {"value": None, "reason": "3 held-out images are too few"}
    text = page(tmp_path / "b", {**ABOUT, "fidelity": {"figures": [none], "spectra": {}}}).text
    assert "was not measured: 3 held-out images are too few." in text


def test_privacy_that_was_not_measured_is_told(tmp_path: Path) -> None:
    assert "Privacy Not measured." in page(tmp_path / "a").text
    none = PRIVATE | {"metric": "all", "space": "all", "value": None, "reason": "3 held-out images are too few"}
    text = page(tmp_path / "b", {**ABOUT, "privacy": {"figures": [none], "histograms": {}}}).text
    assert "Privacy Not measured: 3 held-out images are too few." in text


def test_a_histogram_without_images_is_left_out() -> None:
    empty = {"edges": [0.0, 1.0], "synthetic": [0.0], "held_out": [0.0]}
    assert histograms({"pixels": empty}, {}) == []
    drawn = histograms({"odd": empty | {"synthetic": [1.0]}}, {"pixels": "thumbnails"})
    assert [(each.title, each.ticks[-1]) for each in drawn] == [("odd", (WIDTH, "1"))]


def test_utility_is_a_table(tmp_path: Path) -> None:
    row = {"setting": "real + synthetic", "real_share": 0.01, "n_real": 44, "n_synthetic": 371, "auroc": 0.9}
    row |= {"interval": [0.88, 0.92], "gains": {"real": [0.1, 0.05, 0.15]}, "rare": None, "tested_on": "held-out"}
    row |= {"calibration_error": [0.031, 0.02, 0.04]}
    few = row | {"gains": {"real, augmented": [0.2, 0.1, 0.3]}, "rare": "nodule", "tested_on": "external"}
    text = page(tmp_path, utility={"seeds": 2, "steps": 9, "rows": [row, few, row | {"gains": {}}]}).text
    assert "real + synthetic 1.0 % of the patients 44 371 0.900 0.880 to 0.920 0.100 0.050 to 0.150 0.031" in text
    assert "few nodule, which is judged judged on another source 44 371 0.900 0.880 to 0.920 0.200 0.100 to" in text


def test_keypatches_lie_on_their_cells_with_their_words(tmp_path: Path) -> None:
    page(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert '<title>effusion</title><rect x="1" y="1" width="1" height="1"/><text x="1.07" y="1.45">1 3</text>' in html
    assert '<title>left</title><rect x="2" y="0"' in html


def test_rejected_images_are_thumbnails_a_few_a_reason(tmp_path: Path) -> None:
    counts = {"requested": 46, "accepted": 5, "rejected": {"degenerate:blank": 40}, "failed": {"StoreError": 1}}
    parsed = page(tmp_path, {**ABOUT, "counts": counts})
    assert parsed.text.count("contrast in grey levels 3.0, bound 8.0") == 12
    assert sum(address.startswith("data:image/png") for address in parsed.addresses) == 13
    assert "16 × 16" in parsed.text


def test_no_rejected_image_is_no_list(tmp_path: Path) -> None:
    about = {**ABOUT, "counts": {"requested": 1, "accepted": 1, "rejected": {}, "failed": {}}}
    assert "Rejected None." in page(tmp_path, about).text


def test_a_training_image_stands_beside_only_where_one_is_given(tmp_path: Path) -> None:
    assert "nearest training image" not in page(tmp_path / "a").text
    near = Neighbour(np.zeros((8, 8), dtype=np.uint8), 0.0125)
    gallery = [GalleryImage(ROW | {"image_id": "0"}, near.image_u8, neighbour=near)]
    assert "thumbnails 0.013 apart" in page(tmp_path / "b", gallery=gallery).text


def test_provenance_is_said_in_words(tmp_path: Path) -> None:
    text = page(tmp_path, {**ABOUT, "parent": {"tag": "x-v1", "dir_md5": "9.dir", "images": 3, "added": 2}}).text
    for line in (
        "phantom (none): 4 studies and 5 views of split train",
        "extends x-v1 ( 9.dir ): 3 images, 2 added",
        "temperature 1",
        "noise quantile 0.01 2.5",
        "labels didn't run",
        "abc-1 vqgan 11111111",
    ):
        assert line in text
    assert "batch" not in text
