"""A small release as an image folder and as DICOM, read back by what others read it with."""

from __future__ import annotations

import csv
import hashlib
import json
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.config import RAISE, settings

from medsynth_core.cli.main import main
from medsynth_core.errors import ConfigError, CorruptObjectError, IncompleteRunError, InputError, StoreError
from medsynth_core.manifest import table_of
from medsynth_core.progress import silent
from medsynth_core.release import Release, open_release
from medsynth_core.release.export import export
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.shard import ShardWriter
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.synthesis.worker import encode_png

pytestmark = pytest.mark.integration

EFFUSION = {"pathology": "pleural effusion", "anatomy": None, "side": "left", "severity": "large"}
NODULE = {"pathology": "nodule", "anatomy": "right upper lobe", "side": None, "severity": None}
PROMPTS = [
    "Large left pleural effusion; a nodule in the right upper lobe.",
    'Clear "lungs",\nno effusion\tat all.\r\n',
    "Épanchement pleural gauche 大量 🫁 \\ \x1b[31m\x00",
    "é" * 11_000,
]
LONGEST = (10_240 - len("Synthetic, not for diagnosis. Prompt: ")) // len("é".encode())
Rows = list[dict[str, Any]]


def image_id(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()[:24]


def pixels(number: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (15, 17), dtype=np.uint8)


def write_release(root: Path, change: Callable[[Rows], Any] = len, png: Callable[[bytes], bytes] = bytes) -> Path:
    """Writes a dataset folder of two shards, split train and val, of two images each.

    Args:
        change: what is done to the rows of the first shard.
        png: what each PNG is stored as.
    """
    for folder in ("manifest", "shards"):
        (root / folder).mkdir(parents=True)
    for shard, split in enumerate(["train", "val"]):
        writer, rows, tar = ShardWriter(), [], f"shards/shard-{shard:05d}.tar"
        for number in (2 * shard, 2 * shard + 1):
            data = png(encode_png(pixels(number)))
            writer.add(image_id(number), data, {})
            rows.append(
                {
                    "image_id": image_id(number),
                    "split": split,
                    "shard": tar,
                    "size": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "prompt_id": f"p{number}",
                    "prompt": PROMPTS[number],
                    "pathology": ["pleural effusion", "nodule"],
                    "anatomy": ["right upper lobe"],
                    "labels": [EFFUSION, NODULE],
                    "view": ["frontal", "lateral"][number % 2],
                    "score_contrast": 0.5,
                    "vqgan_sha256": "a0" * 32,
                    "alignment_sha256": "b1" * 32,
                    "llm_sha256": "c2" * 32,
                    "signature": bytes(256),
                    "synthetic": True,
                    "generator": "medsynth",
                    "generator_version": "0.1.0",
                    "spec_hash": "spec",
                }
            )
        data, places = writer.finish()
        for row in rows:
            row["offset"] = places[row["image_id"]][0]
        if shard == 0:
            change(rows)
        (root / tar).write_bytes(data)
        (root / f"manifest/part-{shard:05d}.parquet").write_bytes(parquet_bytes(table_of(rows)))
    (root / "release.json").write_text(json.dumps({"name": "demo", "counts": {"accepted": 4}}))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "dataset")


def test_an_image_folder_is_what_datasets_loads(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    for metadata in ("jsonl", "csv"):
        assert export(open_release(root), out / metadata, "folder", metadata, silent) == 4
        loaded = datasets.load_dataset("imagefolder", data_dir=str(out / metadata), cache_dir=str(tmp_path / "cache"))
        assert {split: len(rows) for split, rows in loaded.items()} == {"train": 2, "validation": 2}
        rows = [row for split in loaded.values() for row in split]
        for number, row in enumerate(rows):
            np.testing.assert_array_equal(np.asarray(row["image"]), pixels(number))
            assert row["image_id"] == image_id(number)
            assert row["synthetic"] is True
            assert row["release"] == "demo@folder"
        assert rows[0]["prompt"] == PROMPTS[0]
        if metadata == "jsonl":
            assert [row["prompt"] for row in rows] == PROMPTS
            assert rows[0]["labels"] == [EFFUSION, NODULE]
            assert rows[0]["pathology"] == ["pleural effusion", "nodule"]


def test_a_folder_holds_the_bytes_of_the_release_and_tables_without_bytes(root: Path, tmp_path: Path) -> None:
    export(open_release(root), tmp_path / "out", "folder", "csv", silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    names = [f"train/{image_id(0)}.png", f"train/{image_id(1)}.png", f"val/{image_id(2)}.png", f"val/{image_id(3)}.png"]
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {*names, "train/metadata.csv", "val/metadata.csv"}
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == [encode_png(pixels(n)) for n in range(4)]
    with (tmp_path / "out/train/metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert next(iter(rows[0])) == "file_name"
    assert "signature" not in rows[0]
    assert rows[0]["labels"] == "large left pleural effusion; nodule in right upper lobe"
    assert rows[0]["pathology"] == "pleural effusion; nodule"
    assert [row["prompt"] for row in rows] == PROMPTS[:2]


def test_dicom_is_valid_synthetic_and_the_same_pixels(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "writing_validation_mode", RAISE)
    monkeypatch.setattr(settings, "reading_validation_mode", RAISE)
    seen = set()
    for name in ("first", "second"):
        assert export(open_release(root), tmp_path / name, "dicom", "jsonl", silent) == 4
        for number, prompt in enumerate(PROMPTS):
            file = pydicom.dcmread(tmp_path / name / f"{image_id(number)}.dcm")
            for element in file:
                assert element.value is not Ellipsis, "each value is converted, and so validated"
            np.testing.assert_array_equal(file.pixel_array, pixels(number))
            assert file.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
            assert file.SOPClassUID == file.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
            assert file.SOPInstanceUID == file.file_meta.MediaStorageSOPInstanceUID
            assert (file.PatientName, file.PatientID) == ("SYNTHETIC^MEDSYNTH", image_id(number))
            assert (file.SyntheticData, file.ConversionType, file.Modality) == ("YES", "SYN", "OT")
            assert file.PatientOrientation == (["L", "F"] if number % 2 == 0 else "")
            told = file.ImageComments.removeprefix("Synthetic, not for diagnosis. Prompt: ")
            clean = prompt.translate(dict.fromkeys(map(ord, "\n\t\r\x00\x1b"), " ")).replace("\\", "/")
            assert told == clean.rstrip()[:LONGEST]
            seen |= {file.SOPInstanceUID, file.StudyInstanceUID, file.SeriesInstanceUID}
        rows = [json.loads(line) for line in (tmp_path / name / "metadata.jsonl").read_text("utf-8").splitlines()]
        assert [row["file_name"] for row in rows] == [f"{image_id(number)}.dcm" for number in range(4)]
    assert len(seen) == 2 * 4 * 3, "UIDs are new with each export"


class CountingStore(LocalStore):
    """Counts how often each object is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.reads[key] += 1
        return super().get(key)


def test_a_shard_is_read_once_and_progress_ends_full(root: Path, tmp_path: Path) -> None:
    store, steps = CountingStore(root), []
    release = Release(str(root), store, open_release(root).files, None)
    export(release, tmp_path / "out", "folder", "csv", lambda done, total, detail="": steps.append((done, total)))
    assert set(store.reads.values()) == {1}
    assert steps == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("content", ["folder", "file"])
def test_a_place_that_is_taken_is_left_as_it_is(root: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    if content == "folder":
        out.mkdir()
    note = out / "thesis.txt" if content == "folder" else out
    note.write_text("mine")
    with pytest.raises(InputError, match="isn't an empty folder"):
        export(open_release(root), out, "folder", "csv", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert note.read_text() == "mine"


def test_an_empty_folder_is_filled_and_what_a_kill_left_removed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.abcdefgh.partial").mkdir()
    (tmp_path / ".out.mine").mkdir()
    export(open_release(root), tmp_path / "out", "folder", "csv", silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mine", "out"]


SHARD = "shards/shard-00000.tar"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(sha256="0" * 64), f"image '{image_id(1)}' of '{SHARD}': SHA-256 differs"),
        (lambda rows: rows[1].update(offset=None), f"image '{image_id(1)}' of '{SHARD}': SHA-256 differs"),
        (lambda rows: rows[0].update(image_id="../x"), f"image '../x' of '{SHARD}': expected an id of 24 hex digits"),
        (lambda rows: rows[0].update(image_id=None), f"image None of '{SHARD}': expected an id of 24 hex digits"),
        (lambda rows: rows[0].update(split="../val"), f"image '{image_id(0)}' of '{SHARD}': split '../val', expected"),
        (
            lambda rows: rows[0].update(shard="../../up"),
            f"image '{image_id(0)}' of '../../up': the release has no such",
        ),
        (lambda rows: rows.append(dict(rows[0])), f"image '{image_id(0)}' of '{SHARD}': a second row"),
    ],
)
def test_a_damaged_row_is_named_and_nothing_left_behind(
    tmp_path: Path, change: Callable[[Rows], Any], message: str
) -> None:
    root = write_release(tmp_path / "dataset", change)
    with pytest.raises(CorruptObjectError) as caught:
        export(open_release(root), tmp_path / "out", "folder", "csv", silent)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize("layout", ["folder", "dicom"])
def test_what_is_no_png_is_named(tmp_path: Path, layout: str) -> None:
    root = write_release(tmp_path / "dataset", png=lambda data: data[: len(data) // 2])
    with pytest.raises(CorruptObjectError, match=f"image '{image_id(0)}' of '{SHARD}': not a PNG"):
        export(open_release(root), tmp_path / "out", layout, "csv", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_a_damaged_or_missing_part_is_named(tmp_path: Path) -> None:
    root = write_release(tmp_path / "dataset")
    part = root / "manifest/part-00001.parquet"
    part.write_bytes(b"no table")
    with pytest.raises(CorruptObjectError, match=r"part-00001\.parquet"):
        export(open_release(root), tmp_path / "out", "folder", "csv", silent)
    part.unlink()
    with pytest.raises(IncompleteRunError, match=r"2 rows, release\.json says 4"):
        export(open_release(root), tmp_path / "out", "folder", "csv", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Lets the file system refuse as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_is_a_store_error(root: Path, tmp_path: Path) -> None:
    release = open_release(root)
    with files_of_at_most(100), pytest.raises(StoreError, match="out: can't be written"):
        export(release, tmp_path / "out", "folder", "csv", silent)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written"):
        export(release, tmp_path / "file" / "out", "folder", "csv", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_asked_for_must_exist(root: Path, tmp_path: Path) -> None:
    release = open_release(root)
    with pytest.raises(ConfigError, match="'tiff': expected folder or dicom"):
        export(release, tmp_path / "out", "tiff", "csv", silent)
    with pytest.raises(ConfigError, match="'xml': expected csv or jsonl"):
        export(release, tmp_path / "out", "folder", "xml", silent)
    assert list(tmp_path.iterdir()) == []


def run_command(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["medsynth", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    return int(caught.value.code or 0)


def test_the_command_exports_and_refuses_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert run_command("export", str(root), out, "--format", "dicom", "--metadata", "csv") == 0
    assert capsys.readouterr() == (f"4 images in {out}\n", "")
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".csv", *[".dcm"] * 4]
    assert run_command("export", str(root), out) == 3
    assert capsys.readouterr() == ("", f"error: {out}: exists and isn't an empty folder; choose another place\n")
