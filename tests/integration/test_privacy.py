"""The privacy stage on releases of the tiny models, and of a generator that emits its training images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.made_release import leave_shards, upload_shard
from medsynth_core.config import Paths
from medsynth_core.errors import CorruptObjectError, InputError, RiskError
from medsynth_core.filters.thumbnails import thumbnails
from medsynth_core.hashing import sha256_file
from medsynth_core.judging.measured import read_measured
from medsynth_core.judging.released import Released
from medsynth_core.models.rendering import rendered
from medsynth_core.models.tokenizers import load_image_tokenizer
from medsynth_core.privacy.settings import RiskLimits
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.storage.content import content_key
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.worker import encode_png
from medsynth_core.training.examples import image_codes
from medsynth_core.training.pairs import read_pairs
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
RUN = "b" * 32


@pytest.fixture
def workspace(trained: tuple[Config, Paths], tmp_path: Path) -> tuple[Config, Paths]:
    """A workspace with the tiny models and their corpus, without images yet."""
    config = trained[0].model_copy(update={"privacy": trained[0].privacy.model_copy(update={"min_images": 10})})
    init_workspace(tmp_path, config)
    (tmp_path / "data").mkdir()
    for name in ("data/corpus", "data/vocabulary", "data/prompts", "models"):
        (tmp_path / name).symlink_to(trained[1].root / name)
    return config, workspace_paths(tmp_path)


def training_images(paths: Paths) -> np.ndarray:
    image_tokenizer = load_image_tokenizer(paths["vqgan"])
    return np.concatenate(list(rendered(image_tokenizer, image_codes(read_pairs(paths, "train"), image_tokenizer))))


def leave_images(paths: Paths, store: LocalStore, images: Sequence[np.ndarray], a_shard: int) -> ShardList:
    """Leaves images as the quality stage does, each with the first entry of the visual codebook."""
    made = []
    for number, pixels in enumerate(images):
        png = encode_png(pixels)
        row = {"image_id": image_id(RUN, "p", number), "sha256": hashlib.sha256(png).hexdigest()}
        row |= {"pathology": [], "keypatch_ids": [0], "signature": thumbnails(pixels[None])[0].tobytes()}
        row |= {"prompt": "made up", "labels": [], "view": "frontal", "synthetic": True}
        made.append((str(row["image_id"]), png, row))
    parts = [made[at : at + a_shard] for at in range(0, len(made), a_shard)]
    records = [upload_shard(store, RUN, number, len(parts), part) for number, part in enumerate(parts)]
    return leave_shards(paths["deduplicate"], RUN, records)


def test_a_generator_that_emits_its_training_images_isnt_published(workspace: tuple[Config, Paths]) -> None:
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    leave_images(paths, store, list(training_images(paths)), 50)
    report = perform("privacy", config, paths.root, silent, store)
    assert report.n_synthetic == report.n_training > report.n_held_out > 20
    assert report.figures["judge"]["authenticity"] == 0.0
    assert report.figures["pixels"]["membership_auc"] > 0.9
    perform("fidelity", config, paths.root, silent, store)
    before = {entry.key for entry in store.list("")}
    with pytest.raises(RiskError, match=r"not published: .* above privacy\.limits\."):
        perform("release", config, paths.root, silent, store)
    assert {entry.key for entry in store.list("")} == before, "nothing of a refused release is left"
    assert not (paths.root / "dataset.dvc").exists()
    limits = RiskLimits(**dict.fromkeys(RiskLimits.model_fields))
    accepting = config.model_copy(update={"privacy": config.privacy.model_copy(update={"limits": limits})})
    perform("release", accepting, paths.root, silent, store)
    figures = open_release(paths.root).info["privacy"]["figures"]
    assert {row["limit"] for row in figures} == {None}
    assert "reach an AUC of 1.00" in open_release(paths.root).read("README.md").decode()


def test_a_generator_that_returns_the_nearest_training_film_isnt_published(workspace: tuple[Config, Paths]) -> None:
    """For each prompt it takes the training film whose report is likest to it, so some films come often and most
    never: nothing is made up, and the copy filter isn't asked."""
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    images, texts = training_images(paths), read_pairs(paths, "train").texts
    prompts = pq.read_table(paths["prompts"] / "prompts.parquet")["text"].to_pylist()
    words = TfidfVectorizer().fit(texts)
    alike = (words.transform(prompts) @ words.transform(texts).T).toarray()
    draw = np.random.default_rng(0)
    chosen = [int(draw.choice(np.argsort(alike[n % len(prompts)])[-8:])) for n in range(45)]
    assert len(set(chosen)) < len(images) / 4
    leave_images(paths, store, [images[place] for place in chosen], 15)
    perform("privacy", config, paths.root, silent, store)
    perform("fidelity", config, paths.root, silent, store)
    with pytest.raises(RiskError, match=r"not published: .* above privacy\.limits\."):
        perform("release", config, paths.root, silent, store)


def test_strangers_may_be_published(workspace: tuple[Config, Paths]) -> None:
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    pixels = np.random.default_rng(0).integers(0, 20, (40, 32, 32), dtype=np.uint8)
    pixels[:, :, 16:] += 235  # black beside white: no film is like that
    leave_images(paths, store, list(pixels), 20)
    assert perform("privacy", config, paths.root, silent, store).figures["judge"]["authenticity"] == 1.0
    perform("fidelity", config, paths.root, silent, store)
    perform("release", config, paths.root, silent, store)
    assert open_release(paths.root).info["privacy"]["n_synthetic"] == 40


def test_which_images_are_compared_doesnt_depend_on_shards(workspace: tuple[Config, Paths]) -> None:
    _, paths = workspace
    pixels = np.random.default_rng(1).integers(0, 256, (30, 32, 32), dtype=np.uint8)
    found = []
    for a_shard in (4, 30):
        store = LocalStore(paths.root / f"store-{a_shard}")
        found.append(Released.choose(leave_images(paths, store, list(pixels), a_shard), store, 12))
    first, second = ([row["image_id"] for row in each.rows] for each in found)
    numbers = {image_id(RUN, "p", number): number for number in range(30)}
    assert first == second == sorted(numbers)[:12]
    for each, size in zip(found, (5, 7), strict=True):
        np.testing.assert_array_equal(
            np.concatenate(list(each.batches(size))), pixels[[numbers[identity] for identity in first]]
        )


def test_who_measures_first_is_right(workspace: tuple[Config, Paths]) -> None:
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    leave_images(paths, store, list(np.random.default_rng(0).integers(0, 256, (40, 32, 32), dtype=np.uint8)), 20)
    first = perform("privacy", config, paths.root, silent, store)
    (record,) = (found.key for found in store.list("runs/") if "/privacy/" in found.key)
    told = json.loads(store.get(record))
    told["figures"][1]["value"] = 0.12345
    store.put(record, json.dumps(told).encode())
    metric = told["figures"][1]["metric"]
    assert (
        perform("privacy", config, paths.root, silent, store).figures["pixels"][metric]
        == 0.12345
        != first.figures["pixels"][metric]
    )
    other = config.model_copy(update={"seed": 7})
    assert perform("privacy", other, paths.root, silent, store).figures["pixels"][metric] != 0.12345


def test_a_damaged_image_is_named(workspace: tuple[Config, Paths]) -> None:
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    judged = leave_images(paths, store, list(np.zeros((12, 32, 32), dtype=np.uint8)), 12)
    tar = judged.shards[0].tar
    assert tar is not None
    path = paths.root / "store" / content_key(tar.md5)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"XDAT"))
    with pytest.raises(CorruptObjectError, match=r"bytes of image [0-9a-f]{24} don't match its manifest row"):
        perform("privacy", config, paths.root, silent, store)


def test_what_cant_be_measured_says_why_and_may_be_published(workspace: tuple[Config, Paths]) -> None:
    config, paths = workspace
    store = LocalStore(paths.root / "store")
    leave_images(paths, store, list(np.random.default_rng(0).integers(0, 256, (8, 32, 32), dtype=np.uint8)), 8)
    with pytest.raises(InputError, match="run `medsynth privacy` first"):
        perform("release", config, paths.root, silent, store)
    perform("privacy", config, paths.root, silent, store)
    perform("fidelity", config, paths.root, silent, store)
    shards = sha256_file(paths["deduplicate"] / "shards.json")
    figure = read_measured("privacy", paths["privacy"], shards)["figures"][0]
    assert figure["reason"] == "8 synthetic images are fewer than privacy.min_images=10"
    perform("release", config, paths.root, silent, store)
    assert "was not measured: 8 synthetic images are fewer" in open_release(paths.root).read("README.md").decode()
