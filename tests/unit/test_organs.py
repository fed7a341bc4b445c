"""Masks of lungs and heart, the segmenter that learns them, and the filter that asks whether they are usual."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.records import ORGANS, UNMASKED
from medsynth_core.filters import organs
from medsynth_core.filters.organs import UsualOrgans, measures
from medsynth_core.filters.thumbnails import Images
from medsynth_core.judging.networks import organ_cells
from medsynth_core.judging.verdicts import Verdict
from medsynth_core.models.artifact import read_card
from medsynth_core.models.condition import Condition
from medsynth_core.models.judge import Judge
from medsynth_core.models.segmenter import CELLS, OrganSegmenter
from medsynth_core.models.settings import SegmenterConfig
from medsynth_core.progress import silent
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.training import segmenter
from medsynth_core.training.loop import make_accelerator
from medsynth_core.training.pairs import read_pairs
from medsynth_core.training.settings import JudgeParams
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config
from tests.judged import GivenJudging, chain

RIGHT, LEFT, HEART = range(1, 4)
PROMPT, LATERAL = (PromptRow("p0", "The lungs are clear.", Condition((), view)) for view in ("frontal", "lateral"))
BLANK: Images = np.zeros((100, 8, 8), dtype=np.uint8)


def masks_of(seed: int, n: int, size: int = CELLS) -> np.ndarray:
    """Returns the masks of phantoms, int64 [n, size, size]."""
    views = [phantom_study(seed, index, size).views[0] for index in range(n)]
    return np.stack([view.load_mask() for view in views if view.load_mask is not None]).astype(np.int64)


def test_a_phantoms_mask_lies_on_its_film() -> None:
    for index in range(20):
        view = phantom_study(3, index, 64).views[0]
        assert view.load_mask is not None
        film, mask = view.load(), view.load_mask()
        assert set(np.unique(mask)) == {0, RIGHT, LEFT, HEART}
        across = [np.nonzero(mask == organ)[1].mean() for organ in (RIGHT, HEART, LEFT)]
        assert across == sorted(across), "the patient's right is on the image's left"
        assert film[(mask == RIGHT) | (mask == LEFT)].mean() < film[mask == HEART].mean(), "air is dark"


def test_measures_of_a_rectangle_are_known() -> None:
    cells = np.zeros((1, CELLS, CELLS), dtype=np.int64)
    cells[0, 4:12, 8:12] = RIGHT
    cells[0, 20, 0:3] = HEART
    cells[0, 0:4, 20:22] = cells[0, 8:16, 24:26] = LEFT
    right, left, heart = measures(cells)[0]
    spread = [np.sqrt((n**2 - 1) / 12) / CELLS for n in (4, 8)]
    np.testing.assert_allclose(right, [np.log(32 / CELLS**2 + 0.005), 10 / CELLS, 8 / CELLS, *spread, 1.0])
    assert left[5] == pytest.approx(16 / 24), "the larger of two parts"
    assert heart[0] == pytest.approx(np.log(3 / CELLS**2 + 0.005))
    assert np.isnan(heart[1:]).all(), "three cells have no shape"


def test_organs_that_are_missing_or_misplaced_are_named() -> None:
    good = masks_of(7, 60)
    fitted = UsualOrgans.fit(measures(masks_of(8, 300)))
    usual = UsualOrgans.of(fitted.arrays())
    np.testing.assert_array_equal(usual.scores(measures(good)), fitted.scores(measures(good)))
    bounds = {"organs": float(usual.scores(measures(masks_of(9, 300))).max())}
    no_heart, no_left = np.where(good == HEART, 0, good), np.where(good == LEFT, 0, good)
    mirrored = good[:, :, ::-1].copy()
    swapped = np.select([mirrored == RIGHT, mirrored == LEFT], [LEFT, RIGHT], mirrored)

    def judged(cells: np.ndarray, prompts: list[PromptRow]) -> list[Verdict]:
        judging = GivenJudging(cells=lambda images: cells)
        judge = chain([organs.FILTER], bounds, judging, fitted={"organs": fitted.arrays()})
        return judge.verdicts(BLANK[: len(prompts)], prompts)

    def reasons(cells: np.ndarray) -> set[str]:
        return {"".join(verdict.reasons) for verdict in judged(cells, [PROMPT] * len(cells))}

    assert reasons(good) == {""}
    assert reasons(no_left) == {"organs:left lung"}
    assert reasons(no_heart) == {"organs:heart"}
    rejected = [not verdict.accepted for verdict in judged(swapped, [PROMPT] * len(swapped))]
    assert np.mean(rejected) > 0.9, "a heart on the right"
    lateral = judged(no_heart[:2], [LATERAL, PROMPT])
    assert [(verdict.reasons, len(verdict.scores)) for verdict in lateral] == [([], 0), (["organs:heart"], 1)]


def test_without_masks_to_learn_from_organs_judges_nothing() -> None:
    judge = chain([organs.FILTER], {"organs": 0.0})
    assert [verdict.accepted for verdict in judge.verdicts(BLANK[:2], [PROMPT] * 2)] == [True, True]


def test_an_organ_that_no_training_image_shows_is_unusual() -> None:
    lungs = np.where(masks_of(8, 50) == HEART, 0, masks_of(8, 50))
    usual = UsualOrgans.fit(measures(lungs))
    assert usual.scores(measures(lungs)).max() < usual.scores(measures(masks_of(8, 50))).min()


def test_an_image_is_moved_with_its_mask() -> None:
    masks = torch.from_numpy(masks_of(5, 32, 64)).float()[:, None]
    heart = (masks == HEART).float() * 2 - 1
    pixels, cells = segmenter._moved(heart, masks, torch.rand(32, 5, generator=torch.Generator().manual_seed(0)))
    seen = torch.nn.functional.avg_pool2d(pixels, 2)[:, 0] > 0
    assert float((seen == (cells == HEART)).float().mean()) > 0.98
    for each in cells.numpy():
        across = [np.nonzero(each == organ)[1].mean() for organ in (RIGHT, LEFT) if (each == organ).any()]
        assert across == sorted(across), "a mirrored right lung is a left one"


def test_the_segmenter_learns_where_organs_are(tmp_path: Path) -> None:
    training = {"steps": 80, "batch_size": 16, "learning_rate": 8e-3, "warmup_steps": 5, "checkpoint_every": 40}
    config = parse_config(
        {
            "corpus": {"n_studies": 400, "image_size": 32, "judge_fraction": 0.5, "val_fraction": 0.1},
            "models": {"segmenter": {"channels": [8, 16, 16], "train": training}},
        },
        "test",
    )
    paths = prepared(config, tmp_path)
    pairs, held_out = read_pairs(paths, "judge"), read_pairs(paths, "val")
    params = JudgeParams.of(config)
    how = {"accelerator": make_accelerator(params), "key": "k", "seed": 0, "progress": silent}
    how["checkpoint"] = tmp_path / "segmenter.safetensors"
    found = segmenter.fit(params.segmenter, pairs, held_out, **how)
    assert found is not None
    model, figures = found
    assert min(figures.values()) > 0.7, figures
    model.save(tmp_path / "saved")
    images = held_out.corpus.images(held_out.rows)
    loaded = OrganSegmenter.load(tmp_path / "saved")
    np.testing.assert_array_equal(organ_cells(loaded, images), organ_cells(model, images))
    assert organ_cells(loaded, np.kron(images[:2], np.ones((1, 8, 8), dtype=np.uint8))).shape == (2, CELLS, CELLS)
    lateral = replace(pairs, conditions=[replace(each, view="lateral") for each in pairs.conditions])
    assert segmenter.fit(params.segmenter, lateral, held_out, **how) is None


def prepared(config: Config, root: Path) -> Paths:
    """Returns a workspace with a corpus and its vocabulary."""

    paths = workspace_paths(root / "w")
    perform("corpus", config, paths.root, silent)
    perform("vocabulary", config, paths.root, silent)
    return paths


def test_the_judge_brings_a_segmenter_where_there_are_masks(trained: tuple[Config, Paths]) -> None:
    _, paths = trained
    assert Judge.load(paths["judge"]).segmenter is not None
    assert {f"dice_{organ.replace(' ', '_')}" for organ in ORGANS} <= set(read_card(paths["judge"]))
    assert (paths["calibrate"] / "organs" / "fitted.safetensors").is_file()
    assert not list(paths.checkpoints.glob("segmenter*"))


def write_table(folder: Path, masks: list[np.ndarray | str]) -> Config:
    """Returns the configuration of a table of images 40 wide and 30 high, each with a mask (an array, or a name)."""
    names = []
    for number, mask in enumerate(masks):
        Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (30, 1))).save(folder / f"{number}.png")
        names.append(mask if isinstance(mask, str) else f"mask-{number}.png")
        if not isinstance(mask, str):
            Image.fromarray(mask).save(folder / names[-1])
    images = [f"{number}.png" for number in range(len(masks))]
    pd.DataFrame({"text": "Clear lungs.", "filename": images, "mask": names}).to_csv(folder / "t.csv", index=False)
    about = {"kind": "table", "path": str(folder / "t.csv"), "image_size": 32, "max_bad_fraction": 0.9}
    return parse_config({"corpus": {**about, "columns": {"mask": "mask"}}}, "test")


def test_masks_of_a_table_are_cropped_like_its_images(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:, :20], mask[:, 20:] = RIGHT, LEFT
    report = perform("corpus", write_table(tmp_path, [mask, ""]), tmp_path / "w", silent)
    assert (report.masks, report.skipped) == (1, 0)
    first, second = Corpus.open(tmp_path / "w" / "data" / "corpus").masks(np.array([0, 1]))
    assert (first[:, :32] == RIGHT).all(), "the middle square"
    assert (first[:, 33:] == LEFT).all()
    assert (second == UNMASKED).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((30, 40), 7, dtype=np.uint8), "mask-0.png: a mask holds the numbers 0 none, 1 right lung"),
        (np.zeros((30, 40, 3), dtype=np.uint8), "mask-0.png: a mask has 8 bits a pixel"),
        (np.zeros((40, 30), dtype=np.uint8), '0.png,,"its mask has 30x40 pixels, the image 40x30'),
        ("absent.png", "absent.png: image not found"),
        ("../../elsewhere.png", "image path leaves its folder"),
    ],
)
def test_an_image_whose_mask_is_wrong_is_kept_without_it(tmp_path: Path, mask: np.ndarray | str, message: str) -> None:
    good = np.zeros((30, 40), dtype=np.uint8)
    report = perform("corpus", write_table(tmp_path, [mask, good]), tmp_path / "w", silent)
    assert (sum(report.views.values()), report.masks, report.skipped) == (2, 1, 1)
    assert message in (tmp_path / "w" / "data" / "corpus" / "skipped.csv").read_text()


def test_levels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        SegmenterConfig(channels=(12,))
    with pytest.raises(ValueError, match="halved at most four times"):
        SegmenterConfig(channels=(8,) * 6)
    images: Images = np.zeros((1, 32, 32), dtype=np.uint8)
    assert organ_cells(OrganSegmenter(SegmenterConfig(channels=(8,) * 5)).eval(), images).shape == (1, CELLS, CELLS)
