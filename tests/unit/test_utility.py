"""The worth of a release: settings, shares, intervals, and that a useful one shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.made_release import publish_made
from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation import worth
from medsynth_core.evaluation.settings import UtilityConfig, UtilityParams
from medsynth_core.evaluation.worth import SETTINGS, measure_utility
from medsynth_core.progress import silent
from medsynth_core.release import Release, open_release
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config


def asked(trained: tuple[Config, Paths], **utility: Any) -> UtilityParams:
    settings = UtilityConfig.model_validate(utility)
    return UtilityParams.of(trained[0].model_copy(update={"utility": settings}))


@pytest.fixture
def release(trained: tuple[Config, Paths], tmp_path: Path) -> Release:
    store = LocalStore(tmp_path / "store")
    publish_made(trained[0], workspace_paths(tmp_path), store, "a" * 32, (20, 10), side=32)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = ../store\n")
    return open_release(tmp_path)


def test_every_setting_is_judged(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worth, "_MIN_CASES", 3)
    params = asked(trained, shares=[0.1, 1.0], seeds=2, steps=4, max_images=25)
    rows = measure_utility(params, trained[1], release, silent)
    assert [(row.setting, row.real_share) for row in rows] == [(s, share) for share in (0.1, 1.0) for s in SETTINGS]
    by = {(row.setting, row.real_share): row for row in rows}
    assert by["synthetic", 0.1].auroc == by["synthetic", 1.0].auroc, "no real image is in it"
    assert by["synthetic", 1.0].n_real == 0
    assert by["real", 0.1].n_real < by["real", 1.0].n_real
    assert by["real + synthetic", 1.0].n_synthetic == 25
    for row in rows:
        assert row.interval[0] <= row.auroc <= row.interval[1]
        assert (row.gain is None) == (row.setting == "real")
        assert np.mean(list(row.by_pathology.values())) == pytest.approx(row.auroc, abs=1e-3)


def test_what_cannot_be_judged_is_said(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worth, "_MIN_CASES", 1000)
    with pytest.raises(InputError, match="no pathology has 1000"):
        measure_utility(asked(trained, shares=[1.0]), trained[1], release, silent)
