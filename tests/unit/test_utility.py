"""The worth of a release: arms, ratios, a rare finding, another source, and that a kill costs one training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.made_release import publish_made
from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation.settings import UtilityConfig, UtilityParams
from medsynth_core.evaluation.worth import measured
from medsynth_core.evaluation.worth.arms import ARMS, BASELINES, Given, Images
from medsynth_core.evaluation.worth.measured import UtilityRow, measure_utility
from medsynth_core.evaluation.worth.trained import _augmented, trained_on
from medsynth_core.progress import silent
from medsynth_core.release import Release, open_release
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

ALL = tuple(arm.name for arm in ARMS)


def asked(trained: tuple[Config, Paths], **utility: Any) -> UtilityParams:
    settings = UtilityConfig.model_validate({"seeds": 2, "steps": 4, "max_images": 25, **utility})
    return UtilityParams.of(trained[0].model_copy(update={"utility": settings}))


@pytest.fixture
def release(trained: tuple[Config, Paths], tmp_path: Path) -> Release:
    store = LocalStore(tmp_path / "store")
    publish_made(trained[0], workspace_paths(tmp_path), store, "a" * 32, (20, 10), side=32)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = ../store\n")
    return open_release(tmp_path)


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_MIN_CASES", 3)


def fake(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[tuple[int, bool, float]], int]]:
    """Replaces training; returns what is trained: size, augmentation and share of steps of each phase, and the seed."""
    calls: list[tuple[list[tuple[int, bool, float]], int]] = []

    def train(phases: Any, held_out: Images, names: Any, params: UtilityParams, paths: Paths, seed: int) -> nn.Module:
        calls.append(([(len(phase.images), phase.augmented, phase.steps) for phase in phases], seed))
        return nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, len(names)))

    monkeypatch.setattr(measured, "trained_on", train)
    return calls


def test_every_arm_is_trained_and_judged(trained: tuple[Config, Paths], release: Release) -> None:
    rows = measure_utility(asked(trained, shares=[0.1, 1.0]), trained[1], release, silent)
    assert [(row.setting, row.real_share) for row in rows] == [(arm, share) for share in (0.1, 1.0) for arm in ALL]
    by = {(row.setting, row.real_share): row for row in rows}
    assert by["synthetic", 0.1].auroc == by["synthetic", 1.0].auroc, "no real image is in it"
    assert by["synthetic", 1.0].n_real == 0
    assert by["real", 0.1].n_real < by["real", 1.0].n_real
    assert by["real + synthetic", 1.0].n_synthetic == 25
    for row in rows:
        assert row.interval[0] <= row.auroc <= row.interval[1]
        assert set(row.gains) == set(BASELINES) - {row.setting}
        assert np.mean([mean for mean, *_ in row.by_pathology.values()]) == pytest.approx(row.auroc, abs=1e-3)
        low, high = row.calibration_error[1:]
        assert low <= row.calibration_error[0] <= high
        for name, (gain, _, _) in row.gains.items():
            assert gain == pytest.approx(row.auroc - by[name, row.real_share].auroc, abs=2e-4)


def test_what_each_arm_learns_from(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake(monkeypatch)
    rows = measure_utility(asked(trained, shares=[0.1], ratios=[0.25, 0.5]), trained[1], release, silent)
    n = rows[0].n_real
    quarter, half = round(n / 4), round(n / 2)
    assert [sizes for sizes, seed in calls if seed == 0] == [
        [(n, False, 1.0)],
        [(n + half, False, 1.0)],
        [(n + half, True, 1.0)],
        [(25, False, 1.0)],
        [(n + quarter, False, 1.0)],
        [(n + half, False, 1.0)],
        [(n + quarter, True, 1.0)],
        [(n + half, True, 1.0)],
        [(25, False, 0.5), (n, False, 0.5)],
    ]
    assert [(row.ratio, row.n_synthetic) for row in rows if row.setting == "real + synthetic"] == [
        (0.25, quarter),
        (0.5, half),
    ]


def test_a_ratio_that_the_release_cannot_give_is_left_out(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake(monkeypatch)
    params = asked(trained, shares=[1.0], ratios=[0.1, 50.0], arms=["real", "real + synthetic"])
    rows = measure_utility(params, trained[1], release, silent)
    assert [row.ratio for row in rows] == [None, 0.1]
    assert "ratio 50 of" in caplog.text
    assert "the release has 25 images" in caplog.text


def test_a_rare_finding_is_filled_up(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch)
    given: list[Given] = []
    of_rare = measured._Data._of_rare

    def noted(self: Any, *draws: Any) -> Given:
        given.append(of_rare(self, *draws))
        return given[-1]

    monkeypatch.setattr(measured._Data, "_of_rare", noted)
    every = measure_utility(asked(trained, shares=[1.0], arms=["real"]), trained[1], release, silent)[0]
    name = next(iter(every.by_pathology))
    rare = measure_utility(
        asked(trained, shares=[1.0], rare=name, rare_films=4, arms=["real", "real, duplicated", "real + synthetic"]),
        trained[1],
        release,
        silent,
    )[3:]
    assert [row.setting for row in rare] == ["real", "real, duplicated", "real + synthetic"]
    column = sorted(every.by_pathology).index(name)
    for each in given:
        assert each.real.truth_NL[:, column].sum() == 4
        assert each.made.truth_NL[:, column].all(), "only what shows it fills it up"
        assert each.copies.truth_NL[:, column].all()
        assert len(each.copies) == len(each.made)
    for row in rare:
        assert row.rare == name
        assert row.auroc == pytest.approx(row.by_pathology[name][0], abs=1e-3)
    with pytest.raises(InputError, match=r"utility\.rare=gout: expected one that can be judged"):
        measure_utility(asked(trained, shares=[1.0], rare="gout"), trained[1], release, silent)


def test_another_source_judges_too(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = fake(monkeypatch)
    root = str(trained[1].root)
    rows = measure_utility(
        asked(trained, shares=[1.0], arms=["real", "synthetic"], external=root), trained[1], release, silent
    )
    assert [(row.setting, row.tested_on) for row in rows] == [
        (arm, place) for arm in ("real", "synthetic") for place in ("held-out", "external")
    ]
    assert len(calls) == 4, "one training, judged twice"
    with pytest.raises(InputError, match=r"utility.external: .*corpus isn't there; run `medsynth corpus` in"):
        measure_utility(asked(trained, shares=[1.0], external=str(tmp_path / "no")), trained[1], release, silent)


def test_a_kill_costs_one_training(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake(monkeypatch)
    params = asked(trained, shares=[1.0], arms=["real", "real, duplicated", "synthetic"])
    train = measured.trained_on

    def killed(*given: Any) -> nn.Module:
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*given)

    monkeypatch.setattr(measured, "trained_on", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_utility(params, trained[1], release, silent)
    monkeypatch.setattr(measured, "trained_on", train)
    measure_utility(params, trained[1], release, silent)
    assert len(calls) == 6, "each once"
    measure_utility(params, trained[1], release, silent)
    assert len(calls) == 12, "asked again, it measures again"


def test_the_interval_is_students_and_the_gain_is_paired() -> None:
    def scores(*aurocs: float) -> list[dict[str, Any]]:
        return [{"held-out": measured._Scores({"a": value}, 0.1)} for value in aurocs]

    trial = measured._Trial(ARMS[4], 1.0, None, rare=False)
    row: UtilityRow = measured._row(
        trial, "held-out", (1, 1), scores(0.8, 0.9, 0.7), {"real": scores(0.7, 0.8, 0.6)}, None
    )
    assert row.auroc == 0.8
    assert row.interval == pytest.approx((0.8 - 0.2484, 1.0), abs=1e-3)  # t(0.975, 2) = 4.303, sem = 0.0577
    assert row.gains["real"] == pytest.approx((0.1, 0.1, 0.1)), "the seeds differ, the gain doesn't"


def test_augmented_images_are_flipped_half_the_time() -> None:
    pixels = torch.linspace(-1, 1, 32).expand(400, 1, 32, 32)
    draws = np.random.default_rng(0).random((400, 9))
    draws[:, 1:] = 0.5
    changed = _augmented(pixels, draws)
    flipped = (changed[:, 0, 16, 0] > changed[:, 0, 16, -1]).numpy()
    np.testing.assert_array_equal(flipped, draws[:, 0] < 0.5)


@pytest.mark.parametrize("network", ["densenet121", "resnet50"])
def test_networks_of_torchvision(network: str, trained: tuple[Config, Paths], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = Images(draw.integers(0, 255, (8, 32, 32), dtype=np.uint8), np.eye(8, 2, dtype=np.float32))
    phases = ARMS[0].phases(Given(images, images, images, images))
    params = asked(trained, steps=1, network=network)
    model = trained_on(phases, images, ["a", "b"], params, workspace_paths(tmp_path), 0)
    assert measured.logits_of(model, images).shape == (8, 2)


def test_what_cannot_be_judged_is_said(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "_MIN_CASES", 1000)
    with pytest.raises(InputError, match="no pathology has 1000"):
        measure_utility(asked(trained, shares=[1.0]), trained[1], release, silent)
