"""Open-i's collection is read as it is published and as Kaggle has it."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers.openi import recognise
from medsynth_core.corpus.records import NO_FINDING
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform
from tests.dicoms import film, saved

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{uid}"/>
   <pmcId id="{uid}"/>
   <licenseType>open-access</licenseType>
   <MedlineCitation Owner="Indiana University" Status="supplied by publisher">
      <Article PubModel="Electronic">
         <Abstract>
            <AbstractText Label="COMPARISON">None.</AbstractText>
            <AbstractText Label="INDICATION">Positive TB test</AbstractText>
            <AbstractText Label="FINDINGS">{findings}</AbstractText>
            <AbstractText Label="IMPRESSION">{impression}</AbstractText>
         </Abstract>
      </Article>
   </MedlineCitation>
   <MeSH>
{mesh}
   </MeSH>
{images}
</eCitation>
"""
IMAGE = """   <parentImage id="{id}">
      <figureId>F1</figureId>
      <caption>{caption}</caption>
      <panel type="single"><url>/hadoop/storage/radiology/extract/{id}.jpg</url></panel>
   </parentImage>"""


def write_report(folder: Path, uid: int, findings: str, mesh: list[str], images: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    terms = "\n".join(f"      <major>{term}</major>" for term in mesh)
    films = "\n".join(IMAGE.format(id=name, caption=caption) for name, caption in images.items())
    text = REPORT.format(uid=uid, findings=findings, impression="See &amp; above.", mesh=terms, images=films)
    (folder / f"{uid}.xml").write_text(text, "utf-8")


def write_image(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom_study(0, index, 64).views[0].load().astype("uint8")).save(path)


BOTH = "Xray Chest PA and Lateral"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """NLMCXR_reports.tgz and NLMCXR_png.tgz unpacked: four reports of six images, one of which isn't there."""
    folder = tmp_path / "Open-i für alle"
    reports = folder / "ecgen-radiology"
    write_report(
        reports, 1, "The heart is normal.", ["normal"], {"CXR1_1_IM-0001-3001": BOTH, "CXR1_1_IM-0001-4001": BOTH}
    )
    write_report(
        reports, 2, "Large heart.", ["Cardiomegaly/borderline", "Pleural Effusion/left/small "],
        {"CXR2_IM-0652-1001": "PA", "CXR2_IM-0652-2001": "Lateral"},
    )  # fmt: skip
    write_report(reports, 10, "", ["No Indexing"], {"CXR10_IM-0002-1001": "Chest portable AP"})
    write_report(reports, 11, "No film.", ["No Indexing"], {"CXR11_IM-0067-1001": "PA"})
    for index, name in enumerate(
        ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR2_IM-0652-1001", "CXR2_IM-0652-2001", "CXR10_IM-0002-1001"]
    ):
        write_image(folder / "NLMCXR_png" / f"{name}.png", index)
    return folder


def read(folder: Path, workspace: Path, **corpus: object) -> Corpus:
    settings = {"kind": "openi", "path": str(folder), "image_size": 32, "views": "all", "max_bad_fraction": 0.9}
    perform("corpus", parse_config({"corpus": {**settings, **corpus}}, "test"), workspace, silent)
    return Corpus.open(workspace / "data" / "corpus")


def given(workspace: Path) -> list[tuple[str, str, str, str]]:
    rows = pq.read_table(workspace / "data" / "corpus" / "given.parquet").to_pylist()
    return [(row["study_id"], row["name"], row["status"], row["origin"]) for row in rows]


def skipped(workspace: Path) -> pd.DataFrame:
    return pd.read_csv(workspace / "data" / "corpus" / "skipped.csv")


def test_the_collection_as_published(published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = read(published, tmp_path / "w")
    studies = corpus.studies().to_pylist()
    assert [row["study_id"] for row in studies] == ["openi-1", "openi-2", "openi-10", "openi-11"]
    assert studies[0]["findings"] == "The heart is normal."
    assert studies[0]["impression"] == "See & above."
    assert all(row["patient_id"] == row["study_id"] for row in studies)
    assert given(tmp_path / "w") == [
        ("openi-1", NO_FINDING, "present", "MeSH by indexers"),
        ("openi-2", "Cardiomegaly/borderline", "present", "MeSH by indexers"),
        ("openi-2", "Pleural Effusion/left/small", "present", "MeSH by indexers"),
    ]
    projections = [(row["view_id"], row["projection"]) for row in corpus.views().to_pylist()]
    assert projections == [
        ("CXR1_1_IM-0001-3001.png", "unknown"),
        ("CXR1_1_IM-0001-4001.png", "unknown"),
        ("CXR2_IM-0652-1001.png", "PA"),
        ("CXR2_IM-0652-2001.png", "lateral"),
        ("CXR10_IM-0002-1001.png", "AP"),
    ]
    assert "1 images that the reports name aren't on disk" in caplog.text
    assert skipped(tmp_path / "w").empty


def test_the_archive_and_the_inner_folder_say_the_same(published: Path, tmp_path: Path) -> None:
    wanted = read(published, tmp_path / "u")
    assert read(published / "ecgen-radiology", tmp_path / "v").views() == wanted.views()
    archive = published / "NLMCXR_reports.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(published / "ecgen-radiology", "ecgen-radiology")
    shutil.rmtree(published / "ecgen-radiology")
    for place in (published, archive):
        corpus = read(place, tmp_path / "w")
        assert corpus.studies() == wanted.studies()
        assert corpus.views() == wanted.views()


def test_dicom_images(published: Path, tmp_path: Path) -> None:
    shutil.rmtree(published / "NLMCXR_png")
    folder = published / "NLMCXR_dcm" / "1"
    folder.mkdir(parents=True)
    values = phantom_study(0, 0, 64).views[0].load().astype("u2") << 4
    saved(folder / "1_IM-0001-3001.dcm", film(values, 12, WindowCenter=2048, WindowWidth=4096))
    views = read(published, tmp_path / "w").views().to_pylist()
    assert [(row["view_id"], row["study_id"]) for row in views] == [("1_IM-0001-3001.dcm", "openi-1")]


def test_kaggles_projections_are_used(published: Path, tmp_path: Path) -> None:
    names = ["1_IM-0001-3001.dcm.png", "1_IM-0001-4001.dcm.png"]
    table = pd.DataFrame({"uid": [1, 1], "filename": names, "projection": ["Frontal", "Lateral"]})
    table.to_csv(published / "indiana_projections.csv", index=False)
    views = read(published, tmp_path / "w").views().to_pylist()
    assert [row["projection"] for row in views[:3]] == ["frontal", "lateral", "PA"]


def test_without_images(published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(published / "NLMCXR_png")
    (published / "NLMCXR_png.tgz").write_bytes(b"")
    corpus = read(published, tmp_path / "w", max_studies=3)
    assert (corpus.n_studies(), corpus.views().num_rows) == (3, 0)
    assert "no images (unpack NLMCXR_png.tgz): 4 reports are read without them" in caplog.text


def test_recognised(published: Path, kaggle: Path, tmp_path: Path) -> None:
    what = recognise(published)
    assert what is not None
    assert what.found == ("4 reports", "5 images")
    assert "indiana_projections.csv" in what.missing[0]
    there = recognise(kaggle)
    assert there is not None
    assert there.what == "Open-i as Kaggle has it"
    other = tmp_path / "other"
    other.mkdir()
    (other / "1.xml").write_text("<note/>")
    assert recognise(other) is None
    assert recognise(other / "1.xml") is None


BOMB = '<?xml version="1.0"?><!DOCTYPE e [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><eCitation>&b;</eCitation>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<eCitation><uId", "not readable as XML"),
        (BOMB.encode(), "document type"),
        (BOMB.encode("utf-16"), "document type"),
        (b'<!DOCTYPE e SYSTEM "file:///etc/passwd"><eCitation/>', "document type"),
        (b"<note/>", "a note, not an eCitation"),
        (b"<eCitation><AbstractText Label='FINDINGS'>x</AbstractText></eCitation>", "no uId"),
        (b"<eCitation><uId id='CXR5'/></eCitation>", "no findings and no impression"),
        (b'<eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">x</AbstractText></eCitation>', "study id repeats"),
        (b"\xff\xfe\x00garbage", "not readable as XML"),
        (b'<?xml version="1.0" encoding="klingon"?><eCitation/>', "not readable as XML"),
    ],
)
def test_a_report_that_cannot_be_read_is_a_bad_row(
    published: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    (published / "ecgen-radiology" / "5.xml").write_bytes(content)
    assert read(published, tmp_path / "w").n_studies() == 4
    rows = skipped(tmp_path / "w")
    assert len(rows) == 1
    assert reason in rows["reason"][0]
    assert "5.xml" in rows["source"][0] or reason == "study id repeats"


def test_damaged_images(published: Path, tmp_path: Path) -> None:
    images = published / "NLMCXR_png"
    (images / "CXR1_1_IM-0001-3001.png").write_bytes(b"")
    (images / "CXR2_IM-0652-1001.png").write_bytes(b"no image")
    (images / "CXR2_IM-0652-2001.png").unlink()
    (images / "CXR2_IM-0652-2001.png").symlink_to("gone")
    read(published, tmp_path / "w")
    reasons = skipped(tmp_path / "w")["reason"].tolist()
    assert [reason.split(" (")[0] for reason in reasons] == [
        "the file is empty", "not a readable image", "a link to gone, which isn't there",
    ]  # fmt: skip


def archive_cut_in_half(folder: Path) -> None:
    with tarfile.open(folder / "NLMCXR_reports.tgz", "w:gz") as tar:
        tar.add(folder / "ecgen-radiology", "ecgen-radiology")
    shutil.rmtree(folder / "ecgen-radiology")
    data = (folder / "NLMCXR_reports.tgz").read_bytes()
    (folder / "NLMCXR_reports.tgz").write_bytes(data[: len(data) // 2])


def foreign_images(folder: Path) -> None:
    shutil.rmtree(folder / "NLMCXR_png")
    write_image(folder / "CXR999_IM-0001-0001.png", 0)


@pytest.mark.parametrize(
    ("damage", "corpus", "reason"),
    [
        (archive_cut_in_half, {}, r"NLMCXR_reports\.tgz: cut off or damaged"),
        (foreign_images, {}, "'CXR999_IM-0001-0001.png' is there, '1_IM-0001-3001' is named"),
        (lambda folder: shutil.rmtree(folder / "ecgen-radiology"), {}, r"none of indiana_reports\.csv"),
        (lambda folder: None, {"images": "/nowhere"}, r"/nowhere: corpus\.images is not a folder"),
        (lambda folder: shutil.rmtree(folder), {}, r"corpus\.path is not a folder"),
    ],
)
def test_what_is_missing_is_one_error(
    published: Path, tmp_path: Path, damage: Callable[[Path], None], corpus: dict[str, str], reason: str
) -> None:
    damage(published)
    with pytest.raises(InputError, match=reason):
        read(published, tmp_path / "w", **corpus)


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """Kaggle's copy: three reports, two images of three."""
    folder = tmp_path / "kaggle"
    for index in range(2):
        write_image(folder / "images" / "images_normalized" / f"{index}_IM-0001-1001.dcm.png", index)
    pd.DataFrame(
        {
            "uid": [1, 2, 3],
            "MeSH": ["normal", "Cardiomegaly/mild;Opacity/lung/base/left", "No Indexing"],
            "Problems": ["normal", "Cardiomegaly;Opacity", "No Indexing"],
            "image": ["Xray Chest PA and Lateral"] * 3,
            "indication": ["Cough"] * 3,
            "comparison": ["None."] * 3,
            "findings": ["Clear.", "Big heart.", ""],
            "impression": ["Normal chest.", "", "Normal."],
        }
    ).to_csv(folder / "indiana_reports.csv", index=False)
    pd.DataFrame(
        {
            "uid": [1, 1, 2],
            "filename": [f"{index}_IM-0001-1001.dcm.png" for index in range(3)],
            "projection": ["Frontal", "Lateral", "Frontal"],
        }
    ).to_csv(folder / "indiana_projections.csv", index=False)
    return folder


def test_kaggles_copy(kaggle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = read(kaggle, tmp_path / "w")
    assert [row["findings"] for row in corpus.studies().to_pylist()] == ["Clear.", "Big heart.", ""]
    assert [row["projection"] for row in corpus.views().to_pylist()] == ["frontal", "lateral"]
    assert [row[:2] for row in given(tmp_path / "w")] == [
        ("openi-1", NO_FINDING), ("openi-2", "Cardiomegaly/mild"), ("openi-2", "Opacity/lung/base/left"),
    ]  # fmt: skip
    assert "1 of 3 images aren't there" in caplog.text
    assert skipped(tmp_path / "w").empty


def changed(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        table = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
        change(table).to_csv(folder / name, index=False)

    return apply


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "indiana_projections.csv").unlink(), r"indiana_projections\.csv: not found"),
        (changed("indiana_reports.csv", lambda t: t.rename(columns={"findings": "finding"})), "no column 'findings'"),
        (changed("indiana_projections.csv", lambda t: t.assign(uid="000" + t["uid"])), "'0001' here, '1' there"),
        (lambda folder: (folder / "indiana_reports.csv").write_text(""), r"indiana_reports\.csv"),
    ],
)
def test_a_damaged_table_is_one_error(
    kaggle: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(kaggle)
    with pytest.raises(InputError, match=reason) as caught:
        read(kaggle, tmp_path / "w")
    assert "\n" not in str(caught.value)


def test_uids_that_a_gap_made_floats_of_are_whole(kaggle: Path, tmp_path: Path) -> None:
    changed("indiana_projections.csv", lambda t: t.assign(uid=t["uid"] + ".0"))(kaggle)
    assert read(kaggle, tmp_path / "w").views().num_rows == 2


def test_bad_rows_of_the_tables(kaggle: Path, tmp_path: Path) -> None:
    changed(
        "indiana_reports.csv",
        lambda t: pd.concat([t, t.iloc[:1], t.iloc[:1].assign(uid=""), t.iloc[2:3].assign(uid="9", impression="")]),
    )(kaggle)
    read(kaggle, tmp_path / "w")
    assert skipped(tmp_path / "w")["reason"].tolist() == [
        "study id repeats", "empty uid", "no findings and no impression",
    ]  # fmt: skip
