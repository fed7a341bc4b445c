"""Findings that somebody assigned: by any archive's names, beside a report or instead of one."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.records import NO_FINDING, Given, Status
from medsynth_core.progress import silent
from medsynth_core.training.pairs import read_pairs
from medsynth_core.vocabulary.given import combined, findings_of
from medsynth_core.vocabulary.mining import mine_report, positive_findings, statuses
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform, workspace_paths

NAMES = {
    # NIH ChestX-ray14
    "Effusion": "pleural effusion", "Infiltration": "infiltrate", "Pleural_Thickening": "pleural thickening",
    "Nodule": "lung nodule", "Hernia": "hiatal hernia", "Fibrosis": "pulmonary fibrosis", "Edema": "pulmonary edema",
    # CheXpert
    "Enlarged Cardiomediastinum": "mediastinal widening", "Lung Opacity": "opacity", "Lung Lesion": "mass",
    # VinDr
    "Nodule/Mass": "mass", "ILD": "interstitial lung disease", "Aortic enlargement": "aortic enlargement",
    # PadChest
    "laminar atelectasis": "atelectasis", "kerley lines": "septal thickening", "heart insufficiency": "heart failure",
    "calcified adenopathy": "lymphadenopathy", "goiter": "thyroid enlargement",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_archives_are_known(name: str) -> None:
    assert {mention.term for mention in findings_of(name) or ()} == {NAMES[name]}


@pytest.mark.parametrize("name", ["Support Devices", "NSG tube", "suboptimal study", NO_FINDING, "Other lesion"])
def test_what_is_no_finding_is_none(name: str) -> None:
    assert findings_of(name) == ()


@pytest.mark.parametrize("name", ["frobnication", "Klasse 7", "No pneumonia", "x"])
def test_a_name_that_is_not_known_is_told_apart(name: str) -> None:
    assert findings_of(name) is None


def said(report: str, given: dict[str, Status], rule: str) -> dict[str, str]:
    found = combined(report, mine_report(report), [Given(*each, "reader") for each in given.items()], rule)  # type: ignore[arg-type]
    return {each["pathology"]: f"{each['status']} {each['origin']}" for each in statuses(found)}


REPORT = "Small left effusion. No pneumothorax. Possible pneumonia."


@pytest.mark.parametrize(
    ("rule", "given", "expected"),
    [
        ("text", {"Edema": "present"}, {"pleural effusion": "present report", "pneumothorax": "absent report",
                                        "pneumonia": "uncertain report"}),
        ("given", {"Edema": "present", "Mass": "absent"},
         {"pulmonary edema": "present reader", "mass": "absent reader"}),
        ("both", {"Pneumonia": "present", "Effusion": "present"},
         {"pleural effusion": "present report", "pneumothorax": "absent report", "pneumonia": "present reader"}),
        ("both", {"Effusion": "absent"},
         {"pleural effusion": "absent reader", "pneumothorax": "absent report", "pneumonia": "uncertain report"}),
        ("both", {NO_FINDING: "present"}, {"pneumothorax": "absent report", "pneumonia": "uncertain report"}),
        ("given", {}, {"pleural effusion": "present report", "pneumothorax": "absent report",
                       "pneumonia": "uncertain report"}),
    ],
)  # fmt: skip
def test_which_of_the_two_counts(rule: str, given: dict[str, Status], expected: dict[str, str]) -> None:
    assert said(REPORT, given, rule) == expected


@pytest.mark.parametrize("rule", ["text", "given", "both"])
def test_a_study_without_a_report_goes_by_what_is_given(rule: str) -> None:
    assert said("", {"Effusion": "present", "Mass": "uncertain"}, rule) == {
        "mass": "uncertain reader",
        "pleural effusion": "present reader",
    }


def test_sides_and_severities_of_the_report_complete_what_is_given() -> None:
    found = combined(REPORT, mine_report(REPORT), [Given("Effusion", "present", "reader")], "both")
    assert positive_findings(found) == [
        {"pathology": "pleural effusion", "anatomy": "pleura", "side": "left", "severity": "mild"}
    ]


STATES = {
    "Effusion": [1, 0, -1, ""],
    "Cardiomegaly": ["", 1, 0, -1],
    "No Finding": [0, 0, 0, 1],
    "Klasse 7": [1, "", "", ""],
}


def test_a_corpus_of_labels_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    n = 160
    for number in range(n):
        film = phantom_study(0, number, 64).views[0].load()
        Image.fromarray(film).save(tmp_path / f"{number}.png")
    table = {name: [states[i % 4] for i in range(n)] for name, states in STATES.items()}
    table |= {"file": [f"{i}.png" for i in range(n)], "who": [f"p{i // 2}" for i in range(n)]}
    table |= {"sex": ["F", "male"] * (n // 2), "age": [40 + i % 30 for i in range(n)]}
    pd.DataFrame(table).to_csv(tmp_path / "labels.csv", index=False)
    columns = {
        "text": None, "image": "file", "patient": "who", "labels": list(STATES), "origin": "two readers",
        "sex": "sex", "age": "age",
    }  # fmt: skip
    config = parse_config(
        {"corpus": {"kind": "table", "path": str(tmp_path / "labels.csv"), "image_size": 32, "columns": columns}},
        "test",
    )
    paths = workspace_paths(tmp_path / "w")
    report = perform("corpus", config, paths.root, silent)
    assert (report.given, report.skipped, sum(report.views.values())) == (n, 0, n)
    with caplog.at_level(logging.WARNING):
        perform("vocabulary", config, paths.root, silent)
    assert "'Klasse 7' (" in caplog.text
    rows = pq.read_table(paths["vocabulary"] / "labels.parquet").to_pylist()
    for number, row in enumerate(rows):
        states = {"Effusion": "pleural effusion", "Cardiomegaly": "cardiomegaly"}
        words = {1: "present", 0: "absent", -1: "uncertain"}
        expected = {term: words[table[name][number]] for name, term in states.items() if table[name][number] != ""}
        assert {each["pathology"]: each["status"] for each in row["statuses"]} == expected, number
        assert {each["origin"] for each in row["statuses"]} <= {"two readers"}
    pairs = read_pairs(paths, "train")
    texts = dict.fromkeys(pairs.texts)
    assert len(texts) > len(pairs) / 4, "wordings vary"
    for text, condition, undecided in zip(pairs.texts, pairs.conditions, pairs.undecided, strict=True):
        found = statuses(mine_report(text))
        asserted = {each["pathology"] for each in found if each["status"] == "present"}
        assert asserted == set(condition.pathology), text
        assert not undecided & {each["pathology"] for each in found}, text
    people = {(row["sex"], row["age"]) for row in pq.read_table(paths["corpus"] / "studies.parquet").to_pylist()}
    assert people == {("F" if i % 2 == 0 else "M", 40 + i % 30) for i in range(n)}
    assert np.array_equal(pairs.reported, [False] * len(pairs))
