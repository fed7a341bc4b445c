"""CheXGenBench's protocol on hand-made instances: its files, its numbers, its columns."""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prdc import compute_prdc
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from medsynth_core.cli.benchmarks.chexgenbench import command
from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.evaluation.chexgenbench import networks
from medsynth_core.evaluation.chexgenbench.alignment import Cosines, alignment_figures, compared, cosines
from medsynth_core.evaluation.chexgenbench.fidelity import Side, fidelity_figures, figures, inception_score, kid
from medsynth_core.evaluation.chexgenbench.measured import Measured, mean_with_interval
from medsynth_core.evaluation.chexgenbench.networks import BIOVIL_T, INCEPTION, RAD_DINO, REID, Cast, cast
from medsynth_core.evaluation.chexgenbench.pictures import NOTHING, Pictures, check_file, load_gray, of_files
from medsynth_core.evaluation.chexgenbench.protocol import PATHOLOGIES, pathologies_of
from medsynth_core.evaluation.chexgenbench.reidentified import (
    by_prompt,
    encode,
    nearest,
    paired,
    privacy_figures,
    privacy_rows,
)
from medsynth_core.evaluation.chexgenbench.request import Request
from medsynth_core.evaluation.chexgenbench.rows import alignment_row, as_csv, fidelity_row, privacy_table
from medsynth_core.evaluation.chexgenbench.tables import check_complete, read_annotations, read_made
from medsynth_core.progress import silent
from medsynth_core.random import stream
from medsynth_core.workspace.stages import workspace_paths

CPU = torch.device("cpu")


def normal(seed: int, n: int, width: int = 8, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, (n, width))


class Given(nn.Module):
    """Takes features for images, as torchmetrics' metrics take a network of one's own."""

    num_features = 8

    def forward(self, images: Tensor) -> Tensor:
        return images


def given() -> Any:
    return Given()


# numbers


@pytest.mark.parametrize(("n", "m"), [(60, 60), (80, 50)])
def test_fid_and_kid_are_torchmetrics(n: int, m: int) -> None:
    real, fake = normal(0, n), normal(1, m, mean=0.4)
    found = figures(INCEPTION, fake, real, 0)
    fid = FrechetInceptionDistance(feature=given(), input_img_size=(8,))
    # as metrics/fid.py has it: subsets of all images of the smaller side
    theirs = KernelInceptionDistance(feature=given(), subset_size=min(n, m))
    for metric in (fid.double(), theirs):
        metric.update(torch.from_numpy(real), real=True)
        metric.update(torch.from_numpy(fake), real=False)
    assert found["fid"] == pytest.approx(float(fid.compute()), rel=1e-4)
    mean, spread = (float(value) for value in theirs.compute())
    of_subsets = spread / 100**0.5  # of two means of 100 subsets, each of draws of its own
    assert found["kid"] == pytest.approx(mean, rel=1e-5, abs=1e-6 if n == m else 5 * of_subsets)
    assert found["kid"] == kid(real, fake, 0), "equal arguments draw the same"


def test_prdc_is_the_packages_with_five_neighbours() -> None:
    real, fake = normal(2, 90), normal(3, 70, mean=0.3)
    found = figures(RAD_DINO, fake, real, 0)
    theirs = compute_prdc(real_features=real, fake_features=fake, nearest_k=5)
    assert {key: found[key] for key in theirs} == pytest.approx({key: float(value) for key, value in theirs.items()})


@pytest.mark.parametrize("n", [100, 37, 6])
def test_the_inception_score_is_torchmetrics_of_features(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features = normal(4, n) * 2
    order = stream(0, "chexgenbench.inception_splits").permutation(n)
    monkeypatch.setattr(torch, "randperm", lambda size: torch.from_numpy(order[:size]))
    theirs = InceptionScore(feature=given())
    theirs.update(torch.from_numpy(features))
    assert inception_score(features, 0) == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def pictures(n: int, labels: Sequence[str] = ("Edema",), prompts: Sequence[str] | None = None) -> Pictures:
    names = prompts or [f"prompt {place}" for place in range(n)]
    return Pictures([f"image {place}" for place in range(n)], names, [frozenset(labels)] * n, NOTHING.open)


def test_figures_of_a_label_are_of_its_images_beside_as_many_training_images() -> None:
    synthetic, real, training = (normal(seed, n) for seed, n in ((0, 40), (1, 50), (2, 60)))
    shown = pictures(40)
    some = replace(shown, labels=[frozenset(["Edema"] if place < 20 else []) for place in range(40)])
    sides = Side(some, synthetic), Side(pictures(50), real), Side(pictures(60), training)
    found = {each.metric: each for each in fidelity_figures(RAD_DINO, "net", "Edema", *sides, seed=0)}
    assert found["fid"].value == pytest.approx(figures(RAD_DINO, synthetic[:20], real, 0)["fid"])
    assert found["fid"].control == pytest.approx(figures(RAD_DINO, training[:20], real, 0)["fid"])
    assert (found["kid"].n, found["kid"].n_real, found["kid"].control_of) == (20, 50, "training images")
    few = list(fidelity_figures(RAD_DINO, "net", "Fracture", *sides, seed=0))
    assert {(each.value, each.reason) for each in few} == {(None, "at most 5 images on a side")}
    alone = fidelity_figures(RAD_DINO, "net", None, sides[0], sides[1], Side(NOTHING, np.zeros((0, 1))), seed=0)
    assert {each.control for each in alone} == {None}


def test_a_fid_of_no_more_images_than_features_is_given_as_the_board_does_and_says_so() -> None:
    sides = [Side(pictures(20), normal(seed, 20, 30)) for seed in range(3)]
    found = {each.metric: each for each in fidelity_figures(RAD_DINO, "net", None, *sides, seed=0)}
    assert found["fid"].value is not None
    assert found["fid"].reason == "no more images than features (30)"
    assert found["kid"].reason is None


# alignment


class Toy:
    """Encoders that see the first pixel, and read the first number of a text."""

    def to(self, device: torch.device) -> Toy:
        return self

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        return self._turned([float(np.asarray(image)[0, 0]) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self._turned([float(text.split()[0]) for text in texts])

    @staticmethod
    def _turned(values: Sequence[float]) -> Tensor:
        angles = torch.tensor(values) / 255 * np.pi
        return torch.stack([angles.cos(), angles.sin()], 1)


def seen_as(values: Sequence[int], prompts: Sequence[str]) -> Pictures:
    images = [Image.new("L", (4, 4), value) for value in values]
    return Pictures(list(map(str, values)), prompts, [frozenset(["Edema"])] * len(values), images.__getitem__)


def test_cosines_are_with_ones_own_and_with_all_other_texts() -> None:
    image, text = normal(0, 5, 3), normal(1, 4, 3)
    image, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text))
    own = np.array([0, 1, 2, 3, 1])
    found = compared(image, text, own)
    every = image @ text.T
    for place, mine in enumerate(own):
        assert found.own[place] == pytest.approx(every[place, mine])
        assert found.others[place] == pytest.approx(np.delete(every[place], mine).mean())


def test_an_aligned_side_beats_other_prompts_and_a_shuffled_one_doesnt() -> None:
    values = list(range(0, 250, 10))
    prompts = [f"{value} of grey" for value in values]
    real = cosines(Toy(), seen_as(values, prompts), 4, silent, "toy")
    obeyed, disobeyed = seen_as(values, prompts), seen_as(stream(0, "test").permutation(values).tolist(), prompts)
    found = {}
    for side in (obeyed, disobeyed):
        told = alignment_figures("toy", None, side, cosines(Toy(), side, 4, silent, "toy"), real, 25, 0)
        found[id(side)] = {each.metric: each for each in told}
    good, bad = found[id(obeyed)], found[id(disobeyed)]
    assert good["alignment"].value == pytest.approx(1.0, abs=1e-6)
    assert good["alignment"].control_of == "other prompts"
    assert good["alignment"].control < 0.7  # type: ignore[operator]
    assert good["alignment_gain"].value == pytest.approx(good["alignment_gain"].control)
    assert good["alignment_gain"].reason is None
    assert bad["alignment_gain"].reason == "not above other prompts: the alignment says nothing"
    assert good["alignment_of_real"].value == pytest.approx(1.0, abs=1e-6)


def test_one_prompt_has_no_others() -> None:
    side = seen_as([0, 10], ["0 x", "0 x"])
    (found,) = alignment_figures("toy", None, side, cosines(Toy(), side, 4, silent, "toy"), None, 0, 0)
    assert (found.metric, found.control, found.reason) == ("alignment", None, "all of one prompt")
    (none,) = alignment_figures("toy", "Fracture", side, Cosines(np.zeros(2), np.zeros(2)), None, 0, 0)
    assert (none.value, none.reason) == (None, "no image")


def test_intervals_are_over_prompts_not_images() -> None:
    values = normal(0, 30, 1)[:, 0]
    once = mean_with_interval(values, [str(place) for place in range(30)], 0)
    tenfold = mean_with_interval(np.repeat(values, 10), [str(place // 10) for place in range(300)], 0)
    assert once == pytest.approx(tenfold, rel=1e-4), "ten copies of an image know no more than one"


# re-identification


class Marks:
    """Takes images of one patient to have the same first pixel."""

    side = 8
    same_patient: float | None = 0.5

    def to(self, device: torch.device) -> Marks:
        return self

    def encode(self, images_BHW: Tensor) -> Tensor:
        assert images_BHW.shape[1:] == (8, 8)
        return images_BHW[:, :1, 0].float()

    def scores(self, one_PF: Tensor, other_PF: Tensor) -> Tensor:
        return (-(one_PF - other_PF).abs()[:, 0]).exp()


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((1, 2))[:, None].expand(-1, 4)


def grey(levels: Sequence[int], prompts: Sequence[str]) -> Pictures:
    images = [Image.new("L", (20, 20), level) for level in levels]
    return Pictures([f"film {level}" for level in levels], prompts, [frozenset()] * len(levels), images.__getitem__)


def test_a_planted_copy_is_found_by_its_prompt() -> None:
    training = grey([10, 60, 200], ["a", "b", "c"])
    made = grey([13, 16, 60, 66, 150, 240], ["a", "a", "b", "b", "c", "c"])
    sides = [encode(each, Mean(), None, Marks(), CPU, 4, silent) for each in (made, training)]
    places = by_prompt(made, training)
    assert places.tolist() == [0, 0, 1, 1, 2, 2]
    pairs = paired(*sides, places, Marks(), CPU)
    rows = privacy_rows(pairs)
    assert [(row["Real Path"], row["Prompt"]) for row in rows] == [
        ("film 10", "a"),
        ("film 60", "b"),
        ("film 200", "c"),
    ]
    assert (rows[1]["Max_reid_scores"], rows[1]["Min_pixel_distance"], rows[1]["Min_latent_distance"]) == (1, 0, 0)
    assert rows[0]["Mean_pixel_distance"] == pytest.approx((3 + 6) / 2), "a root mean square of grey levels"
    assert rows[0]["Mean_latent_distance"] == pytest.approx((3 + 6) / 2)
    assert rows[2]["Min_pixel_distance"] == 40
    control = paired(*sides, by_prompt(made, training, shift=1), Marks(), CPU)
    assert control.real[:2] == ["film 60", "film 60"]
    found = {each.metric: each for each in privacy_figures("marks", pairs, control, "others", 0.5, 3, 0)}
    assert (found["reidentified"].value, found["reidentified"].control) == (pytest.approx(1 / 3), 0)
    assert found["min_pixel_distance"].value == pytest.approx((3 + 0 + 40) / 3)


def test_a_planted_copy_is_found_among_the_nearest() -> None:
    training, made = grey([10, 60, 200], ["a", "b", "c"]), grey([61, 199, 60], ["x", "y", "z"])
    sides = [encode(each, Mean(), None, Marks(), CPU, 2, silent) for each in (made, training)]
    assert nearest(*sides).tolist() == [1, 2, 1]
    pairs = paired(*sides, nearest(*sides), Marks(), CPU)
    assert [row["Max_reid_scores"] for row in privacy_rows(pairs)] == pytest.approx([np.exp(-1), np.exp(-1), 1])


def test_without_features_latent_distances_are_left_out() -> None:
    side = encode(grey([10, 60], ["a", "b"]), None, None, Marks(), CPU, 4, silent)
    pairs = paired(side, side, np.array([0, 1]), Marks(), CPU)
    found = {each.metric: each for each in privacy_figures("marks", pairs, None, "", 0.5, 2, 0)}
    assert found["min_latent_distance"].reason == "no network plays RAD-DINO's role"
    empty = privacy_table(privacy_rows(pairs), OWN)[0]
    assert (empty["Mean_latent_distance"], empty["Max_reid_scores"]) == (None, 1.0)


# its tables

OWN = Cast(
    {RAD_DINO: "transformers:microsoft/rad-dino", INCEPTION: "inception", BIOVIL_T: "biovil-t:x", REID: "siamese:x"},
    frozenset([RAD_DINO, INCEPTION, BIOVIL_T, REID]),
    (),
)
FIGURES = [
    Measured(metric, role, "net", label, 10, 10, value)
    for label in (None, "Edema")
    for metric, role, value in (
        ("fid", INCEPTION, 51.23456),
        ("kid", INCEPTION, 0.01),
        ("inception_score", INCEPTION, 2.0),
        ("fid", RAD_DINO, 54.2349),
        ("kid", RAD_DINO, 0.02),
        ("precision", RAD_DINO, 0.5),
        ("recall", RAD_DINO, 0.25),
        ("density", RAD_DINO, 0.4),
        ("coverage", RAD_DINO, 0.3),
        ("alignment", BIOVIL_T, 0.6789),
    )
]


def test_tables_have_the_published_columns_in_their_order() -> None:
    """Read from metrics/fid.py (commit 2f571ea1), metrics/img_text_alignment_scores.py (1eea81b9) and
    metrics/privacy_metrics.py (37dc489b) of Raman1121/CheXGenBench."""
    row = fidelity_row(FIGURES, None, OWN, "Sana", "annotated_prompt")
    assert as_csv([row]).splitlines() == [
        "FID,FID (RadDino),Inception Score,KID,KID (RadDino),Precision,Recall,Density,Coverage,Extra Info,Caption Type",
        "51.235,54.235,2.0,0.01,0.02,0.5,0.25,0.4,0.3,Sana,annotated_prompt",
    ]
    conditional = fidelity_row(FIGURES, "Edema", OWN, "Sana", "annotated_prompt")
    assert list(conditional) == [*row, "Pathology"]
    assert alignment_row(FIGURES, None, OWN, "Sana") == {"Alignment_score": 0.679, "Extra Info": "Sana"}
    assert list(alignment_row(FIGURES, "Edema", OWN, "Sana")) == ["Alignment_score", "Extra Info", "Pathology"]
    side = encode(grey([10], ["a"]), Mean(), None, Marks(), CPU, 4, silent)
    (private,) = privacy_table(privacy_rows(paired(side, side, np.array([0]), Marks(), CPU)), OWN)
    assert list(private) == [
        "Real Path",
        "Prompt",
        "Mean_reid_scores",
        "Max_reid_scores",
        "Mean_pixel_distance",
        "Min_pixel_distance",
        "Mean_latent_distance",
        "Min_latent_distance",
    ]


def test_a_stand_in_is_named_in_every_column_that_it_fills() -> None:
    entries = {RAD_DINO: "judge", INCEPTION: "texture", BIOVIL_T: "alignment", REID: "judge"}
    playing = Cast(entries, frozenset(), ())
    row = fidelity_row(FIGURES, None, playing, "x", "prompt")
    assert list(row)[:4] == [
        "FID (texture for Inception)",
        "FID (judge for RAD-DINO)",
        "Inception Score (texture for Inception)",
        "KID (texture for Inception)",
    ]
    assert not set(row) & {"FID", "FID (RadDino)", "KID", "KID (RadDino)", "Precision", "Coverage", "Inception Score"}
    same = fidelity_row(FIGURES, None, Cast({RAD_DINO: "judge", INCEPTION: "judge"}, frozenset(), ()), "x", "prompt")
    assert len(same) == 11, "one network in two roles fills two columns"
    assert "Alignment_score (alignment for BioViL-T)" in alignment_row(FIGURES, None, playing, "x")


def test_a_network_that_is_left_out_leaves_its_columns_empty() -> None:
    playing = Cast({INCEPTION: "inception"}, frozenset([INCEPTION]), ())
    row = fidelity_row([each for each in FIGURES if each.role == INCEPTION], None, playing, "x", "prompt")
    assert (row["FID"], row["FID (RadDino)"], row["Precision"]) == (51.235, None, None)


@pytest.mark.parametrize(
    ("terms", "names"),
    [
        ([], {"No Finding"}),
        (["pleural effusion"], {"Pleural Effusion"}),
        (["pulmonary edema", "cardiomegaly"], {"Edema", "Cardiomegaly"}),
        (["mediastinal widening"], {"Enlarged Cardiomediastinum"}),
        (["lung nodule"], {"Lung Lesion"}),
        (["mass"], {"Lung Lesion"}),
        (["consolidation"], {"Consolidation"}),
        (["airspace disease"], {"Lung Opacity"}),
        (["COVID-19 pneumonia"], {"Pneumonia"}),
        (["empyema"], {"Pleural Effusion"}),
        (["pleural thickening"], {"Pleural Other"}),
        (["emphysema"], set()),
    ],
)
def test_our_findings_have_their_names(terms: list[str], names: set[str]) -> None:
    assert pathologies_of([{"pathology": term} for term in terms]) == names
    assert names <= set(PATHOLOGIES)
    assert len(PATHOLOGIES) == 14


# who plays


@pytest.fixture
def nothing_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Paths:
    """A folder without weights, on a machine without any."""
    monkeypatch.setattr(networks, "_is_there", lambda role, paths: False)
    return workspace_paths(tmp_path)


def test_missing_weights_are_one_line_that_says_how_they_are_given(nothing_there: Paths) -> None:
    with pytest.raises(InputError) as raised:
        cast({}, False, nothing_there)
    said = str(raised.value)
    assert "\n" not in said
    for words in (
        "RAD-DINO (--rad-dino transformers:FOLDER, of microsoft/rad-dino)",
        "Inception (--inception inception:FILE",
        "BioViL-T (--biovil-t biovil-t:FOLDER, of microsoft/BiomedVLP-BioViL-T)",
        "re-identification (--reid siamese:FILE, ResNet-50_epoch11_data_handling_RPN.pth",
        "--stand-ins",
    ):
        assert words in said
    playing = cast({}, True, nothing_there)
    assert playing.entries == {RAD_DINO: "judge", INCEPTION: "texture", BIOVIL_T: "alignment", REID: "judge"}
    assert len(playing.missing) == 4
    assert playing.own == frozenset()


def test_none_leaves_a_network_out_and_what_is_given_isnt_missing(nothing_there: Paths) -> None:
    playing = cast({RAD_DINO: "texture", INCEPTION: "none", BIOVIL_T: "none", REID: "none"}, False, nothing_there)
    assert (playing.entries, playing.missing, playing.stand_ins) == ({RAD_DINO: "texture"}, (), {RAD_DINO: "texture"})


@pytest.mark.parametrize(
    ("role", "entry", "words"),
    [
        (RAD_DINO, "jugde", r"--rad-dino 'jugde': there is no 'jugde'; did you mean 'judge'\?"),
        (BIOVIL_T, "judge", "--biovil-t 'judge': there is no 'judge'"),
        (REID, "siamese", "siamese needs a place"),
        (INCEPTION, "texture:x", "texture takes none"),
    ],
)
def test_an_unknown_network_is_one_clear_error(role: str, entry: str, words: str, nothing_there: Paths) -> None:
    with pytest.raises(ConfigError, match=words):
        cast({role: entry}, True, nothing_there)


def test_what_is_given_must_be_there(nothing_there: Paths) -> None:
    for role, entry in (
        (RAD_DINO, "transformers:/away"),
        (INCEPTION, "inception:away.pth"),
        (BIOVIL_T, "biovil-t:away"),
        (REID, "siamese:away.pth"),
    ):
        with pytest.raises(InputError, match="away"):
            cast({role: entry}, True, nothing_there)


def test_rad_dino_is_known_by_its_name_or_its_size(nothing_there: Paths) -> None:
    folder = nothing_there.root / "encoder"
    folder.mkdir()
    for name in ("preprocessor_config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    rest = {INCEPTION: "none", BIOVIL_T: "none", REID: "none"}
    for width, own in ((768, True), (384, False)):
        about = f'{{"model_type": "dinov2", "hidden_size": {width}, "num_hidden_layers": 12}}'
        (folder / "config.json").write_text(about)
        playing = cast({**rest, RAD_DINO: f"transformers:{folder}"}, False, nothing_there)
        assert (RAD_DINO in playing.own) is own
    assert playing.heading("FID (RadDino)", RAD_DINO) == "FID (transformers:encoder for RAD-DINO)"


# its files


def table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.DictWriter(sink, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


LABELS = "{'Edema': 1, 'Fracture': 0, 'Pneumonia': -1, 'Cardiomegaly': nan, 'Atelectasis': 1.0}"


def rows(n: int = 3) -> list[dict[str, str]]:
    return [
        {"id": f"i{k}", "annotated_prompt": f"Prompt {k}.", "path": f"p{k}.png", "chexpert_labels": LABELS}
        for k in range(n)
    ]


def test_annotations_are_read_as_the_benchmark_reads_them(tmp_path: Path) -> None:
    given = [*rows(), {**rows()[0], "path": "again.png"}, {**rows()[0], "annotated_prompt": ""}]
    read = read_annotations(table(tmp_path / "t.csv", given), tmp_path / "films", needs_film=True)
    assert [each.prompt for each in read] == ["Prompt 0.", "Prompt 1.", "Prompt 2."], "one row a prompt, none without"
    assert read[0].labels == {"Edema", "Atelectasis"}, "1 counts; uncertain, absent and unsaid don't"
    assert read[0].film == tmp_path / "films" / "p0.png"
    assert read[2].row == 4


def _without(column: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        table(path, [{key: value for key, value in row.items() if key != column} for row in rows()])

    return write


def _changed(**cells: str) -> Callable[[Path], None]:
    return lambda path: table(path, [rows()[0], {**rows()[1], **cells}]) and None


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("annotated_prompt,path\n"), "the table has no rows"),
        (_without("annotated_prompt"), "no column 'annotated_prompt'"),
        (_without("path"), "no column 'path'"),
        (_changed(path=""), "row 3: 'path' is empty"),
        (_changed(chexpert_labels="Edema"), "row 3: 'chexpert_labels' isn't a dictionary of numbers"),
        (_changed(chexpert_labels="__import__('os')"), "row 3: 'chexpert_labels' isn't a dictionary"),
        (lambda path: path.write_text("annotated_prompt,path\na,b\nc,d,e\n"), "row 3: 3 cells where the header has 2"),
    ],
)
def test_bad_annotations_are_one_clear_error(write: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    with pytest.raises(InputError, match=words) as raised:
        read_annotations(tmp_path / "t.csv", None, needs_film=True)
    assert str(tmp_path / "t.csv") in str(raised.value)


@pytest.mark.parametrize("columns", [("prompt", "img_savename"), ("annotated_prompt", "synthetic_filename")])
def test_synthetic_images_are_found_by_either_of_its_tables(columns: tuple[str, str], tmp_path: Path) -> None:
    asked = read_annotations(table(tmp_path / "t.csv", rows()), None, needs_film=False)
    name = "prompt_INFO.csv" if columns[0] == "prompt" else "generations_with_metadata.csv"
    made = [{columns[0]: f"Prompt {k}.", columns[1]: f"m{k}.png"} for k in range(3)]
    (tmp_path / "made").mkdir()
    table(tmp_path / "made" / name, made)
    found = read_made(tmp_path / "made", None, asked)
    assert [each.image for each in found] == [tmp_path / "made" / f"m{k}.png" for k in range(3)]
    check_complete(found, asked, "made")
    with pytest.raises(InputError, match=r"made: 1 of 3 prompts have no image \(first: row 4, 'Prompt 2\.'\)"):
        check_complete(found[:2], asked, "made")
    elsewhere = read_made(tmp_path / "made" / name, tmp_path / "far", asked)
    assert elsewhere[0].image == tmp_path / "far" / "m0.png"


def test_synthetic_images_are_found_by_ids(tmp_path: Path) -> None:
    asked = read_annotations(table(tmp_path / "t.csv", rows(2)), None, needs_film=False)
    (tmp_path / "made").mkdir()
    with pytest.raises(InputError, match=r"neither prompt_INFO\.csv nor generations_with_metadata\.csv"):
        read_made(tmp_path / "made", None, asked)
    for name in ("SyntheticImg_i0.png", "i1.jpg", "else.png"):
        (tmp_path / "made" / name).write_bytes(b"")
    assert [each.prompt for each in read_made(tmp_path / "made", None, asked)] == ["Prompt 0.", "Prompt 1."]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"prompt": "Prompt 0.", "file": "x"}, r"no column 'img_savename' \(nor 'synthetic_filename'\)"),
        ({"text": "Prompt 0.", "img_savename": "x"}, r"no column 'prompt' \(nor 'annotated_prompt'\)"),
        ({"prompt": "Prompt 0.", "img_savename": ""}, "row 2: 'img_savename' is empty"),
        ({"prompt": "Another.", "img_savename": "x"}, r"row 2: its prompt 'Another\.' isn't among those of --prompts"),
    ],
)
def test_a_bad_table_of_images_is_one_clear_error(made: dict[str, str], words: str, tmp_path: Path) -> None:
    asked = read_annotations(table(tmp_path / "t.csv", rows()), None, needs_film=False)
    with pytest.raises(InputError, match=words):
        read_made(table(tmp_path / "prompt_INFO.csv", [made]), None, asked)


def test_images_that_cant_be_compared_are_one_clear_error(tmp_path: Path) -> None:
    deep, cut, text = (tmp_path / name for name in ("deep.png", "cut.png", "text.png"))
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(deep)
    text.write_text("no image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:-2000])
    for path, words in (
        (tmp_path / "away.png", "t.csv: row 2: .*away.png: no such image"),
        (deep, "mode I;16; save it with 8 bits"),
        (text, "not a readable image"),
    ):
        with pytest.raises(InputError, match=words):
            check_file(path, "t.csv: row 2")
    with pytest.raises(InputError, match="cut off or damaged"):
        load_gray(cut)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_images_of_any_size_and_8_bit_mode_become_gray_squares(mode: str, tmp_path: Path) -> None:
    Image.new("L", (30, 20), 255).convert(mode).save(tmp_path / "x.png")
    side = of_files([tmp_path / "x.png"], ["a"], [frozenset()])
    (batch,) = side.batches(4, (299, Image.Resampling.BILINEAR))
    assert (batch.shape, batch.dtype, int(batch.min())) == ((1, 299, 299), np.uint8, 255)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"images": Path("a"), "make": Path("b"), "prompts": Path("p")}, "not both"),
        ({"images": Path("a")}, "need --prompts"),
        ({"prompts": Path("p")}, "--prompts needs images"),
        ({"prompts": Path("p"), "images": Path("a"), "release": "r"}, "leave out --images"),
        ({"max_prompts": 4}, "--max-prompts needs --prompts"),
        ({"privacy_images": Path("a")}, "--privacy-images needs"),
        ({"image_dir": Path("a")}, "--image-dir needs --images"),
    ],
)
def test_what_contradicts_itself_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Request(**asked)


def test_the_page_names_options_that_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "chexgenbench.md").read_text("utf-8")
    options = {f"--{name.replace('_', '-')}" for name in inspect.signature(command).parameters}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) <= options
