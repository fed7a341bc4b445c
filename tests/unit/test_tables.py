"""Tables as people have them: what doesn't fit is a bad row with its number, never a shift, a merge or a guess."""

import csv
import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.tables import open_table, patient_column
from medsynth_core.corpus.views import projection_of
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform

TEXT = "Small left effusion."


def read(path: Path, root: Path, columns: dict[str, Any] | None = None, **corpus: Any) -> Corpus:
    config = {"kind": "table", "path": str(path), "image_size": 32, "max_bad_fraction": 0.9, **corpus}
    perform("corpus", parse_config({"corpus": config | {"columns": columns or {}}}, "test"), root, silent)
    return Corpus.open(root / "data" / "corpus")


def skipped(corpus: Corpus) -> list[tuple[str, str]]:
    with (corpus.folder / "skipped.csv").open() as stream:
        return [(row["row"], row["reason"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ("Effusion, small, left.,0.png,a", 5),
        ('"2" nodule, no effusion.",0.png,a', 4),
        ("No pneumothorax, no effusion.,0.png,a", 4),
        ("Clear.,0.png", 2),
        ("Clear.", 1),
    ],
)
def test_a_row_that_is_longer_or_shorter_than_the_header_is_a_bad_row(tmp_path: Path, line: str, cells: int) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'text,filename,who\nClear.,,a\n{line}\n"{TEXT}\nNo pneumothorax.",,b\nClear.,,c\n')
    corpus = read(path, tmp_path / "w", {"patient": "who"})
    assert skipped(corpus)[0][0] == "3"
    assert f"{cells} cells where the header has 3" in skipped(corpus)[0][1]
    assert corpus.studies()["patient_id"].to_pylist() == ["a", "b", "c"]
    assert corpus.studies()["findings"].to_pylist()[1] == f"{TEXT} No pneumothorax."


def test_a_bad_row_after_others_has_its_own_number(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,filename,who\n" + "Clear.,,a,x\nClear.,,b\n" * 3 + "Clear.,,\n")
    assert [row for row, _ in skipped(read(path, tmp_path / "w", {"patient": "who"}))] == ["2", "4", "6", "8"]


WRONG: dict[str, tuple[list[dict[str, str]], str, list[str]]] = {
    "another report": ([{}, {"text": "Clear."}], "another report than row 2", ["s"]),
    "another impression": ([{}, {"text": f"{TEXT} IMPRESSION: Edema."}], "another report than row 2", ["s"]),
    "another patient": ([{}, {"who": "q"}], "another patient than row 2", ["s"]),
    "another sex": ([{}, {"sex": "F"}], "another sex than row 2", ["s"]),
    "blank study": ([{}, {"study": ""}], "no study in column 'study'", ["s"]),
    "null study": ([{}, {"study": "NULL"}], "no study in column 'study'", ["s"]),
    "blank patient": ([{}, {"study": "t", "who": " "}], "no patient in column 'who'", ["s"]),
    "film of another study": ([{}, {"study": "t"}], "its image is another study's, too (row 2)", ["s"]),
    "no report": ([{}, {"study": "t", "text": "nan", "filename": ""}], "no text in column 'text'", ["s"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_disagree_are_not_merged(tmp_path: Path, png_folder: Path, name: str) -> None:
    rows, reason, studies = WRONG[name]
    usual = {"study": "s", "who": "p", "text": TEXT, "filename": "0.png", "sex": "M"}
    pd.DataFrame([usual | row for row in rows]).to_csv(tmp_path / "t.csv", index=False)
    corpus = read(tmp_path / "t.csv", tmp_path / "w", {"study": "study", "patient": "who", "sex": "sex"})
    assert [(row, said[: len(reason)]) for row, said in skipped(corpus)] == [("3", reason)]
    assert corpus.studies()["study_id"].to_pylist() == studies
    assert corpus.studies()["sex"].to_pylist() == ["M"]
    assert len(corpus.views()) == 1


def test_a_row_that_is_there_twice_counts_once(tmp_path: Path, png_folder: Path) -> None:
    rows = {"study": ["s", "t", "s", "s"], "text": [TEXT] * 4, "filename": ["0.png", "1.png", "0.png", "2.png"]}
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    corpus = read(tmp_path / "t.csv", tmp_path / "w", {"study": "study"})
    assert not skipped(corpus)
    assert corpus.views()["view_id"].to_pylist() == ["0.png", "2.png", "1.png"], "rows that are apart are one study"


def test_images_of_one_name_in_two_folders_are_two(tmp_path: Path, png_folder: Path) -> None:
    for folder in ("a", "b"):
        (png_folder / folder).mkdir()
        (png_folder / folder / "x.png").write_bytes((png_folder / "0.png").read_bytes())
    rows = {"text": [TEXT] * 3, "filename": ["a/x.png", "b\\x.png", str(png_folder / "1.png")]}
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    corpus = read(tmp_path / "t.csv", tmp_path / "w", images=str(png_folder))
    assert not skipped(corpus)
    assert len(set(corpus.views()["view_id"].to_pylist())) == 3


@pytest.mark.parametrize("word", ["", "nan", "NaN", "None", "NULL", "n/a", "<NA>", " "])
def test_words_for_nothing_are_nothing(tmp_path: Path, png_folder: Path, word: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"text,filename\n{TEXT},0.png\n{TEXT},{word}\n{word},1.png\n")
    corpus = read(path, tmp_path / "w")
    assert (len(corpus.studies()), len(corpus.views())) == (2, 1)
    assert skipped(corpus) == [("4", "no text in column 'text'")]


IDS: dict[str, tuple[pa.Array, list[str]]] = {
    "integers": (pa.array([7, 12, 13]), ["7", "12", "13"]),
    "integers with a gap": (pa.array([12, None, 13]), ["12", "", "13"]),
    "floats that were integers": (pa.array([12.0, float("nan"), 13.0]), ["12", "", "13"]),
    "leading zeros": (pa.array(["0012", "0100", "7"]), ["0012", "0100", "7"]),
    "words by number": (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    "large strings": (pa.array(["a", None, "b"], pa.large_string()), ["a", "", "b"]),
    "truths": (pa.array([True, None, False]), ["true", "", "false"]),
    "lists": (pa.array([["a", "b"], [], None]), ["a;b", "", ""]),
    "fractions": (pa.array([1.5, 2.0, None]), ["1.5", "2", ""]),
}


@pytest.mark.parametrize("name", IDS)
def test_columns_of_any_type_are_text(tmp_path: Path, name: str) -> None:
    cells, expected = IDS[name]
    pq.write_table(pa.table({"id": cells, "n": [1, 2, 3]}), tmp_path / "t.parquet")
    assert open_table(tmp_path / "t.parquet", ["id"]).column("id") == expected


@pytest.mark.parametrize("cells", [["12.0", "13.0", ""], ["0.0", "7.0", "100.0"], ["5.0", "", ""]])
def test_ids_that_a_program_took_for_numbers_are_mended(tmp_path: Path, cells: list[str]) -> None:
    pd.DataFrame({"id": cells, "x": "y"}).to_csv(tmp_path / "t.csv", index=False)
    assert open_table(tmp_path / "t.csv", ["id"]).whole("id").column("id") == [
        cell.removesuffix(".0") for cell in cells
    ]


@pytest.mark.parametrize("cells", [["12.0", "13.5"], ["1.0", "1"], ["a", "2.0"]])
def test_other_ids_are_left_alone(tmp_path: Path, cells: list[str]) -> None:
    pd.DataFrame({"id": cells}).to_csv(tmp_path / "t.csv", index=False)
    assert open_table(tmp_path / "t.csv", ["id"]).whole("id").column("id") == cells


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "Excel": ("t.xlsx", b"PK\x03\x04", "spreadsheets aren't read; save it as CSV in UTF-8"),
    "old Excel": ("t.xls", b"\xd0\xcf", "spreadsheets aren't read"),
    "Excel under another name": ("t.csv", b"PK\x03\x04rest", "not text but a zip or an Excel file"),
    "Parquet under another name": ("t.csv", b"PAR1rest", "not text but Parquet; call it .parquet"),
    "no Parquet": ("t.parquet", b"text,filename\n", "not a readable table"),
    "half a gz": ("t.csv.gz", gzip.compress(b"text,filename\nClear.,\n" * 9000)[:100], "cut off or damaged"),
    "no gz": ("t.csv.gz", b"text,filename\n", "cut off or damaged"),
    "half an xz": ("t.csv.xz", lzma.compress(b"text,filename\nClear.,\n" * 9000)[:100], "cut off or damaged"),
    "empty": ("t.csv", b"", "no column 'text'"),
    "header alone": ("t.csv", b"text,filename\n", "the table has no rows"),
    "a column twice": ("t.csv", b"text,text,filename\na,b,\n", "column 'text' is there 2 times"),
    "another column": ("t.csv", b"txt,filename\na,\n", "no column 'text'; did you mean 'txt'?"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    file, data, said = REFUSED[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_table(tmp_path / file, ["text", "filename"])
    assert str(caught.value).startswith(f"{tmp_path / file}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])]
)
def test_a_column_of_images_is_named(tmp_path: Path, kind: pa.DataType) -> None:
    cell: Any = {"bytes": b"x", "path": None} if pa.types.is_struct(kind) else b"x"
    pq.write_table(pa.table({"image": pa.array([cell], kind), "text": ["Clear."]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"column 'image' holds images, not their paths; corpus\.kind=hf"):
        open_table(tmp_path / "t.parquet", ["text", "image"])


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        ("Edema", ["1.0", "", "-1.0"], "holds numbers, not reports"),
        ("Edema", ["0", "1", "1"], "holds numbers, not reports"),
        ("score", ["0.5", "1e-3", "7"], "holds numbers, not reports"),
        ("path", ["a/s1.txt", "a/s2.txt", "b.txt"], "holds paths of files, not reports"),
        ("path", ["s1.rtf", "s2.rtf", "s3.rtf"], "holds paths of files"),
        ("path", ["files/p1/s.xml", "files/p2/s.xml", ""], "holds paths of files"),
    ],
)
def test_a_column_that_holds_no_reports_is_told_of(tmp_path: Path, column: str, cells: list[str], said: str) -> None:
    pd.DataFrame({column: cells, "filename": ""}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=f"column '{column}' {said}"):
        read(tmp_path / "t.csv", tmp_path / "w", {"text": column})


@pytest.mark.parametrize("name", ["patient", "Patient ID", "subject_id", "PatientID", "patient_key"])
def test_a_column_of_patients_is_asked_for(tmp_path: Path, name: str) -> None:
    pd.DataFrame({"text": [TEXT], "filename": "", name: "p"}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(
        InputError, match=rf"column '{name}' seems to hold patients.*set corpus\.columns\.patient={name}"
    ):
        read(tmp_path / "t.csv", tmp_path / "w")
    assert read(tmp_path / "t.csv", tmp_path / "w", {"patient": name}).studies()["patient_id"].to_pylist() == ["p"]


@pytest.mark.parametrize("names", [["text", "study"], ["impatient", "patience"], ["object_id"]])
def test_other_columns_are_not(names: Sequence[str]) -> None:
    assert patient_column(names) is None


@pytest.mark.parametrize(
    ("word", "projection"),
    [
        ("PA", "PA"), ("Postero-anterior", "PA"), ("pa erect", "PA"), ("AP", "AP"), ("AP_horizontal", "AP supine"),
        ("AP Supine", "AP supine"), ("portable", "AP"), ("L", "lateral"), ("LL", "lateral"),
        ("Lateral view", "lateral"), ("UNK", "unknown"),
        ("LATERAL", "lateral"), ("Frontal", "frontal"), ("COSTAL", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_projections_by_any_word(word: str, projection: str) -> None:
    assert projection_of(word) == projection


@pytest.mark.parametrize("word", ["COSTAL", "obl", "schräg"])
def test_projections_that_are_not_known_are_told_of(
    tmp_path: Path, png_folder: Path, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {"text": [TEXT] * 3, "filename": ["0.png", "1.png", "2.png"], "v": [word, "PA", ""]}
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    corpus = read(tmp_path / "t.csv", tmp_path / "w", {"view": "v"})
    assert f"1 views are called '{word}' (1), which is no projection that is known" in caplog.text
    assert corpus.views()["projection"].to_pylist() == ["unknown", "PA", "unknown"]


def test_what_a_table_says_of_people_and_splits(tmp_path: Path) -> None:
    rows = {
        "text": [TEXT] * 4, "filename": "", "sex": ["F", "male", "x", ""], "age": ["061Y", "7", "018M", "400"],
        "race": ["Asian", "", "White", "nan"], "fold": ["train", "valid", "TEST", ""],
    }  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    columns = {"sex": "sex", "age": "age", "race": "race", "split": "fold"}
    quiet = {"val_fraction": 0.0, "test_fraction": 0.0, "judge_fraction": 0.0}
    studies = read(tmp_path / "t.csv", tmp_path / "w", columns, **quiet).studies().to_pylist()
    assert [(row["sex"], row["age"], row["race"]) for row in studies] == [
        ("F", 61, "Asian"), ("M", 7, None), (None, 1, "White"), (None, None, None),
    ]  # fmt: skip
    assert [row["split"] for row in studies] == ["train", "val", "test", "train"]
    studies = read(tmp_path / "t.csv", tmp_path / "w", columns, split="chance", **quiet).studies().to_pylist()
    assert [row["split"] for row in studies] == ["train"] * 4
