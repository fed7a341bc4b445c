"""The worth of a release: settings, shares, intervals, and that a useful one shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.made_release import publish_made
from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation import utility
from medsynth_core.evaluation.utility import SETTINGS, measure_utility
from medsynth_core.progress import silent
from medsynth_core.release import Release, open_release
from medsynth_core.storage.local import LocalStore
from medsynth_core.workspace.tree import Config


@pytest.fixture
def release(trained: tuple[Config, Paths], tmp_path: Path) -> Release:
    store = LocalStore(tmp_path / "store")
    publish_made(trained[0], Paths(tmp_path), store, "a" * 32, (20, 10), side=32)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = ../store\n")
    return open_release(tmp_path)


def test_every_setting_is_judged(
    trained: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utility, "_MIN_CASES", 3)
    rows = measure_utility(*trained, release, [0.1, 1.0], seeds=2, steps=4, max_images=25, progress=silent)
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


def test_what_cannot_be_judged_is_said(trained: tuple[Config, Paths], release: Release) -> None:
    with pytest.raises(InputError, match="use 2 or more"):
        measure_utility(*trained, release, [1.0], seeds=1, steps=4, max_images=9, progress=silent)
