"""The fidelity stage on releases of the tiny models, whose renderings are mush."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.made_release import leave_shards, upload_shard
from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.errors import FidelityError, InputError
from medsynth_core.fidelity.settings import FidelityFloors
from medsynth_core.models.tokenizers.vqgan import VQGAN
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.worker import encode_png
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
RUN = "c" * 32


@pytest.fixture
def workspace(trained: tuple[Config, Paths], tmp_path: Path) -> tuple[Config, Paths]:
    """A workspace with the tiny models and their corpus, without images yet."""
    few = trained[0].fidelity.model_copy(update={"min_images": 10})
    config = trained[0].model_copy(update={"fidelity": few})
    init_workspace(tmp_path, config)
    (tmp_path / "data").mkdir()
    for name in ("data/corpus", "data/vocabulary", "data/prompts", "models"):
        (tmp_path / name).symlink_to(trained[1].root / name)
    return config, workspace_paths(tmp_path)


def with_floors(config: Config, **floors: float | None) -> Config:
    release = config.release.model_copy(update={"min_fidelity": FidelityFloors(**floors)})
    return config.model_copy(update={"release": release})


def leave_images(paths: Paths, store: LocalStore, images: Sequence[np.ndarray]) -> None:
    """Leaves images as the stage before does, each of a prompt of its own."""
    made = []
    for number, pixels in enumerate(images):
        png = encode_png(pixels)
        row = {"image_id": image_id(RUN, "p", number), "prompt_id": f"p{number}", "pathology": [], "keypatch_ids": [0]}
        row |= {"sha256": hashlib.sha256(png).hexdigest(), "signature": bytes(256), "prompt": "made up"}
        row |= {"labels": [], "view": "frontal", "synthetic": True}
        made.append((str(row["image_id"]), png, row))
    leave_shards(paths["deduplicate"], RUN, [upload_shard(store, RUN, 0, 1, made)])


def films(paths: Paths, split: str) -> np.ndarray:
    corpus = Corpus.open(paths["corpus"])
    return corpus.images(np.asarray(corpus.views(split).column("row"), dtype=np.int64))


def test_mush_isnt_published_and_the_tokenizer_is_blamed(workspace: tuple[Config, Paths]) -> None:
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    models = paths.root / "models"
    trained_ones = models.resolve()
    models.unlink()
    shutil.copytree(trained_ones, models)
    settings = VQGAN.load(paths["vqgan"]).config.model_copy(update={"linear": False})
    torch.manual_seed(0)
    VQGAN(settings).save(paths["vqgan"])  # not trained at all
    flat = np.full((40, 32, 32), 90, dtype=np.uint8)
    flat[:, 8:24, 8:24] = np.arange(40)[:, None, None] + 100
    leave_images(paths, store, flat)
    perform("privacy", config, paths.root, silent, store)
    report = perform("fidelity", config, paths.root, silent, store)
    assert report.n_synthetic == 40
    assert report.figures["synthetic"]["told_from_real_spectrum"] > 0.95
    assert report.figures["synthetic"]["fidelity"] < 0.1
    before = {entry.key for entry in store.list("")}
    with pytest.raises(FidelityError, match=r"below release\.min_fidelity\.tokenizer=0\.5: .* The image tokenizer is"):
        perform("release", with_floors(config), paths.root, silent, store)
    assert {entry.key for entry in store.list("")} == before, "nothing of a refused release is left"
    perform("release", config, paths.root, silent, store)
    release = open_release(paths.root)
    assert {row["floor"] for row in release.info["fidelity"]["figures"]} == {None}
    assert "**The images are told at a glance from phantoms" in release.read("README.md").decode()
    assert "told at a glance" in release.read("croissant.json").decode()


def test_real_films_may_be_published_once_the_tokenizer_is_let_off(workspace: tuple[Config, Paths]) -> None:
    """Training films in place of images: the best that a generator could make."""
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    leave_images(paths, store, films(paths, "train")[:60])
    perform("privacy", config, paths.root, silent, store)
    found = perform("fidelity", config, paths.root, silent, store).figures["synthetic"]
    assert found["told_from_real_spectrum"] < 0.75
    assert found["fidelity"] > 0.7
    perform("release", with_floors(config, tokenizer=None), paths.root, silent, store)
    table = (paths.metrics / "fidelity.csv").read_text().splitlines()
    assert table[0] == "images,frequency,log_power"
    assert len(table) == 1 + 3 * 16
    assert {line.split(",")[0] for line in table[1:]} == {"synthetic", "rendered", "real"}


@pytest.mark.slow
def test_who_measures_first_is_right(workspace: tuple[Config, Paths]) -> None:
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    leave_images(paths, store, films(paths, "train")[:30])
    perform("fidelity", config, paths.root, silent, store)
    (record,) = (found.key for found in store.list("runs/") if "/fidelity/" in found.key)
    told = json.loads(store.get(record))
    told["figures"][0]["value"] = 0.12345
    store.put(record, json.dumps(told).encode())
    again = perform("fidelity", config, paths.root, silent, store).figures
    assert again["synthetic"]["told_from_real_spectrum"] == 0.12345


def test_what_cant_be_measured_says_why_and_may_be_published(workspace: tuple[Config, Paths]) -> None:
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    leave_images(paths, store, films(paths, "train")[:8])
    perform("privacy", config, paths.root, silent, store)
    with pytest.raises(InputError, match="run `medsynth fidelity` first"):
        perform("release", config, paths.root, silent, store)
    perform("fidelity", config, paths.root, silent, store)
    perform("release", with_floors(config), paths.root, silent, store)
    card = open_release(paths.root).read("README.md").decode()
    assert "was not measured: 8 synthetic images are fewer than fidelity.min_images=10" in card
