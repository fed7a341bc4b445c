"""What describes a release of real synthesis: the card, Croissant and JSON Schema, as their readers see them."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from jsonschema import Draft202012Validator
from PIL import Image

from medsynth_core.config import Paths
from medsynth_core.corpus.readers.openi import LICENCE
from medsynth_core.judging.networks import Judging
from medsynth_core.progress import silent
from medsynth_core.release.card import size_category
from medsynth_core.release.describe import describe
from medsynth_core.release.settings import ReleaseConfig
from medsynth_core.storage.content import ObjectRef, content_key
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
RELEASE = ReleaseConfig(license="CC-BY-4.0", publisher='Team: "A"', url="https://example.org/cxr", split="val")


@pytest.fixture(scope="module")
def published(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a release of the tiny models, checked out in ``dataset``."""
    config = trained[0].model_copy(update={"release": RELEASE})
    root = tmp_path_factory.mktemp("published")
    (root / "data").mkdir()
    for name in ("data/corpus", "data/vocabulary", "data/prompts", "models"):
        (root / name).symlink_to(trained[1].root / name)
    paths, store = workspace_paths(root), open_store(config.store, root)
    with pytest.MonkeyPatch.context() as patch:
        # what models without training think depends on the machine: here every third image is at odds with its prompt
        patch.setattr(Judging, "agreement", lambda _, images, texts: np.where(np.arange(len(texts)) % 3, 1.0, -2.0))
        perform("synthesis", config, paths.root, silent, store)
    perform("deduplicate", config, paths.root, silent, store)
    perform("privacy", config, paths.root, silent, store)
    perform("fidelity", config, paths.root, silent, store)
    first, again = (perform("release", config, paths.root, silent, store) for _ in range(2))
    assert first.dir_md5 == again.dir_md5, "a description that tells the time makes a new version of the same data"
    for entry in json.loads(store.get(content_key(first.dir_md5))):
        path = root / "dataset" / entry["relpath"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(content_key(entry["md5"])))
    return root


@pytest.fixture(scope="module")
def dataset(published: Path) -> Path:
    return published / "dataset"


@pytest.fixture
def about(dataset: Path) -> dict[str, Any]:
    """release.json, to be changed."""
    value: dict[str, Any] = json.loads((dataset / "release.json").read_text())
    return value


def rows(folder: Path) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(part) for part in sorted(folder.iterdir())]).to_pylist()


def card(about: dict[str, Any]) -> str:
    return describe(about, [])["README.md"].decode()


def test_the_hub_reads_the_front_matter(dataset: Path, about: dict[str, Any]) -> None:
    data = DatasetCard.load(dataset / "README.md").data
    assert (data.pretty_name, data.license, data.size_categories) == ("synthetic-cxr", "cc-by-4.0", ["n<1K"])
    assert data.to_dict()["configs"] == [
        {"config_name": "default", "data_files": [{"split": "val", "path": "manifest/*.parquet"}]}
    ]
    about["release"] |= {"license": "other", "license_link": "https://example.org/terms"}
    data = DatasetCard(card(about)).data
    assert (data.license, data.license_name, data.license_link) == ("other", "see-card", "https://example.org/terms")


def test_the_card_tells_what_the_models_give_away_from_what_the_images_do(about: dict[str, Any]) -> None:
    def row(metric: str, space: str, value: float) -> dict[str, Any]:
        return {"metric": metric, "space": space, "value": value, "low": value - 0.1, "high": value, "real": 0.5}

    figures = [row("membership_auc", "pixels", 0.51), row("membership_auc", "reidentification", 0.55)]
    about["privacy"] = {"n_synthetic": 99, "figures": figures}
    text = card(about)
    assert "by the released images reach an AUC of 0.55 (0.45 to 0.55; a guess has 0.5)" in text
    assert "the models" not in text.partition("Measured on 99 images")[2].partition("\n")[0]
    figures += [row("likelihood_auc", "models", 0.9), row("verification_auc", "reidentification", 0.86)]
    text = card(about)
    assert "films of one real patient from films of two with an AUC of 0.86 (0.76 to 0.86)" in text
    assert "who also had the models could tell training images with an AUC of 0.90 (0.80 to 0.90)" in text
    assert "which concerns sharing the models, not the images" in text


@pytest.mark.parametrize(
    ("images", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M")],
)
def test_size_categories_are_the_hubs(images: int, category: str) -> None:
    assert size_category(images) == category


CHECKS = (
    "assert (release.manifest().num_rows, len(release.dataset())) == (n, n)",
    "assert pyarrow.parquet.read_table('dataset/manifest').num_rows == n",
    "seen = list(images); assert len(seen) == n; assert all(i.mode == 'L' and t['synthetic'] for i, t in seen)",
    "assert len(rows) == len(images) == n; assert all(label['synthetic'] for label in images['json'])",
    "assert len(list(mlcroissant.Dataset('dataset/croissant.json').records('images'))) == n",
)


def test_what_the_card_says_of_loading_is_true(published: Path, about: dict[str, Any], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (published / "dataset" / "README.md").read_text(), re.DOTALL)
    steps = [f"{block}\n{check}\n" for block, check in zip(blocks, CHECKS, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([f"n = {about['counts']['accepted']}", *steps])],
        cwd=published,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "CROISSANT_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_mlcroissant_reads_the_release(dataset: Path, about: dict[str, Any]) -> None:
    croissant = mlcroissant.Dataset(dataset / "croissant.json")
    assert croissant.metadata.issues.errors == set()
    assert [warning.split('"')[1] for warning in croissant.metadata.issues.warnings] == [
        "https://schema.org/datePublished"
    ], "the one thing recommended that would make a new version each time"
    assert croissant.metadata.creators[0].name == RELEASE.publisher
    assert croissant.metadata.version.startswith("1.0.0+")
    for record_set, folder in (("images", "manifest"), ("rejected-images", "rejected")):
        stored = rows(dataset / folder)
        assert stored
        for record, row in zip(croissant.records(record_set), stored, strict=True):
            assert plain(record, f"{record_set}/") == row


def test_a_release_without_rejected_images_names_none(about: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "rejected")
    kept = [ref for ref in objects(tmp_path / "d") if ref.relpath != "croissant.json"]
    (tmp_path / "d" / "croissant.json").write_bytes(describe(about, kept)["croissant.json"])
    croissant = mlcroissant.Dataset(tmp_path / "d" / "croissant.json")
    assert [each.name for each in croissant.metadata.record_sets] == ["images"]
    assert len(list(croissant.records("images"))) == about["counts"]["accepted"]


def objects(folder: Path) -> list[ObjectRef]:
    """Returns all files of a folder as a release lists them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        ObjectRef(
            relpath=path.relative_to(folder).as_posix(),
            md5=hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
            size=path.stat().st_size,
        )
        for path in files
    ]


def plain(record: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Returns a record with column names for ids, and text for all bytes but what is compared."""

    def value(name: str, item: Any) -> Any:
        if isinstance(item, dict):
            return {key.rpartition("/")[2]: value(name, member) for key, member in item.items()}
        if isinstance(item, list):
            return [value(name, member) for member in item]
        return item.decode() if isinstance(item, bytes) and name not in {"signature", "features"} else item

    return {key.removeprefix(prefix): value(key.removeprefix(prefix), item) for key, item in record.items()}


def test_croissant_lists_every_file_with_its_md5(dataset: Path) -> None:
    listed = {
        node["contentUrl"]: node["md5"]
        for node in json.loads((dataset / "croissant.json").read_text())["distribution"]
        if node["@type"] == "cr:FileObject"
    }
    found = {
        path.relative_to(dataset).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()
        for path in dataset.rglob("*")
        if path.is_file() and path.name != "croissant.json"
    }
    assert listed == found


def test_every_row_follows_the_schema(dataset: Path) -> None:
    schema = json.loads((dataset / "schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    accepted, rejected = rows(dataset / "manifest"), rows(dataset / "rejected")
    assert [error.message for row in (*accepted, *rejected) for error in validator.iter_errors(row)] == []
    for change in (
        {"image_id": None},
        {"seed": 2**63},
        {"offset": "0"},
        {"labels": [{"pathology": None, "anatomy": None, "side": None, "severity": None}]},
        {"sampling": {"temperature": 1.0}},
    ):
        assert not validator.is_valid(accepted[0] | change), change
    assert not validator.is_valid({key: value for key, value in accepted[0].items() if key != "synthetic"})


def test_every_image_label_and_row_is_marked_as_synthetic(dataset: Path) -> None:
    n_images = 0
    for shard in (dataset / "shards").iterdir():
        with tarfile.open(shard) as tar:
            for member in tar:
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                if member.name.endswith(".json"):
                    assert json.loads(data)["synthetic"] is True
                    continue
                image = Image.open(io.BytesIO(data))
                n_images += 1
                assert image.text["Software"].startswith("medsynth ")
                assert "synthetic" in image.text["Comment"]
                mark = image.getxmp()["xmpmeta"]["RDF"]["Description"]["DigitalSourceType"]
                assert mark == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    accepted = rows(dataset / "manifest")
    assert n_images == len(accepted)
    assert all(row["synthetic"] for row in (*accepted, *rows(dataset / "rejected")))


def test_a_corpus_without_derivatives_is_said_aloud(about: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert "derivatives" not in card(about)
    assert not caplog.records
    about["corpus"] |= {"kind": "openi", "licence": LICENCE}
    described = describe(about, [])
    assert "licence forbids derivatives" in caplog.text
    text = described["README.md"].decode()
    assert f"- Source corpus: {LICENCE}.\n- **The corpus' licence forbids derivatives." in text
    assert "- Release: CC-BY-4.0." in text
    licence = json.loads(described["croissant.json"])["license"]
    assert licence["name"] == "CC-BY-4.0"
    assert LICENCE in licence["description"]


def test_a_card_claims_no_more_than_the_run_did(about: dict[str, Any]) -> None:
    assert "No patient's data was used" in card(about)
    given = copy.deepcopy(about) | {"own_models": False}
    assert "they were given" in card(given)
    assert "No patient's data was used" not in card(given), "a phantom's prompts may be drawn by a hospital's models"
    about["quality"] = {"enabled": ["degenerate"], "degenerate": {"min_contrast": 8.0, "quantile": 0.005}}
    about["bounds"] = {"clipped": 0.1}
    off = "sharpness, noise, anatomy, organs, niqe, labels, agreement, duplicate"
    assert f"Filters that did not run: {off}." in card(about)
    assert "Near-duplicates were rejected" not in card(about)


def test_a_release_that_extends_another_says_so_in_a_line(about: dict[str, Any]) -> None:
    parent = {"tag": "synthetic-cxr-v3", "dir_md5": "0f.dir", "images": 40, "added": 17}
    line = "Extends `synthetic-cxr-v3` (`0f.dir`, 40 images) by 17 images."
    assert line in card(about | {"parent": parent}).splitlines()
    assert card(about | {"parent": None}) == card(about)


def test_a_version_stands_for_its_files(about: dict[str, Any]) -> None:
    def version(md5: str) -> str:
        files = [ObjectRef(relpath="shards/0b1eb0ba-7.tar", md5=md5 * 32, size=1)]
        return str(json.loads(describe(about, files)["croissant.json"])["version"])

    assert version("0") == version("0") != version("1")
