"""How reports of many houses are read: kinds of writing, each with instances of its own (tests/data/reading.yaml)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from medsynth_core.cli.main import app
from medsynth_core.corpus.language import other_language
from medsynth_core.corpus.plain import plain
from medsynth_core.corpus.sections import Sections, read_sections
from medsynth_core.errors import InputError
from medsynth_core.vocabulary.explain import explain, status_of
from medsynth_core.vocabulary.mining import mine_report, mine_sentences, positive_findings
from medsynth_core.vocabulary.ontology import SEVERITIES, fold, load_ontology

WRITTEN = yaml.safe_load((Path(__file__).parents[1] / "data" / "reading.yaml").read_text("utf-8"))
LONG = {
    "no full stop": "effusion and " * 80_000,
    "lines": "Small effusion here\n" * 50_000,
    "headings": "history: " * 110_000,
    "stops": "a. " * 330_000,
    "rtf": "\\par effusion {" * 60_000,
    "brackets": "<" * 500_000 + "[" * 500_000,
    "hyphens": "a-\n" * 300_000,
}


def said(text: str) -> list[tuple[str, str, str, str]]:
    """Returns finding, status, side and severity of each mention."""
    mentions = [mention for mention in mine_report("\n".join(read_sections(text)[:2])) if mention.kind == "pathology"]
    return [(m.term, m.status, m.side, m.severity or "none") for m in mentions]


@pytest.mark.parametrize(
    ("kind", "text", "truth"), [(kind, *row) for kind, rows in WRITTEN["says"].items() for row in rows]
)
def test_what_a_report_says(kind: str, text: str, truth: str) -> None:
    lineage, found = load_ontology().lineage, said(text)
    asserted = {name for name, status, _, _ in found if status == "present"}
    wanted = [_row(row) for row in truth.split(" | ")]
    for finding, status, side, severity in wanted:
        of = [each for each in found if finding in lineage(each[0])]
        states = {each[1] for each in of} or {"absent"}
        got = next(state for state in ("present", "uncertain", "absent") if state in states)
        assert got == status, found
        assert side is None or side in {each[2] for each in of}, found
        if severity is not None:
            assert severity in {each[3] for each in of if side in (None, "none", each[2])}, found
    stated = {name for name, status, _, _ in wanted if status == "present"}
    assert all(set(lineage(name)) & stated for name in asserted), asserted


def _row(row: str) -> tuple[str, str, str | None, str | None]:
    words = row.split()
    at = next(i for i, word in enumerate(words) if word in {"present", "uncertain", "absent"})
    side, severity = (*words[at + 1 :], None, None)[:2]
    assert severity in {None, "none", *SEVERITIES}
    return " ".join(words[:at]), words[at], side, severity


@pytest.mark.parametrize(("text", "findings", "impression"), WRITTEN["sections"])
def test_what_is_read_of_a_report(text: str, findings: str, impression: str) -> None:
    read = read_sections(text)
    assert (read.findings, read.impression) == (findings, impression)


def test_what_is_left_out_is_told_with_its_reason() -> None:
    text = "John Smith, MRN 12\nHISTORY: Fall.\nCOMPARISON: No.\nFINDINGS: Clear.\nRECOMMENDATION: CT.\nSIGNED BY: X"
    assert [(each.reason, each.text) for each in read_sections(text).left_out] == [
        ("before the first heading", "John Smith, MRN 12"),
        ("what was asked", "Fall."),
        ("about the study", "No."),
        ("advice", "CT."),
        ("signatures", "X"),
    ]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Kein Nachweis eines Pneumothorax. Herz nicht verbreitert.", "German"),
        ("Pas d'épanchement pleural. Silhouette cardiaque normale.", "French"),
        ("Sin derrame pleural. Silueta cardíaca normal.", "Spanish"),
        ("Geen pleuravocht. Hart niet vergroot.", "Dutch"),
        ("Sem derrame pleural.", "Portuguese"),
        ("Non versamento pleurico, polmonare destro.", "Italian"),
        ("Без выпота.", "another script"),
        ("No effusion.", None),
        ("Bibasilar atelectasis, no PTX.", None),
        ("Pneumothorax.", None),
        ("", None),
    ],
)
def test_another_language_is_noticed(text: str, language: str | None) -> None:
    assert other_language(text) == language
    assert language is None or positive_findings(mine_report(text)) == []


@pytest.mark.parametrize("name", LONG)
def test_what_a_word_may_refer_to_is_bounded(name: str) -> None:
    """A text without end would take hours otherwise."""
    read = read_sections(LONG[name])
    sentences = [sentence for part in read[:2] for sentence, _ in mine_sentences(part)]
    assert max((len(sentence.split()) for sentence in sentences), default=0) <= 120


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    read = read_sections(text)
    mine_report(f"{read.findings}\n{read.impression}")
    assert not set("\u200b\u00ad\x00") & set(read.findings)


@given(st.text(max_size=300))
def test_plain_text_stays_as_it_is(text: str) -> None:
    once = plain(text)
    assert plain(once) == once or "&" in text or "\\" in text or "*" in text or "#" in text


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("haemothorax", "hemothorax"),
        ("oedema", "edema"),
        ("visualised", "visualized"),
        ("oesophagus", "esophagus"),
        ("fibre", "fiber"),
        ("tumours", "tumor"),
        ("dyspnoea", "dyspnea"),
    ],
)
def test_british_words_fold(british: str, american: str) -> None:
    assert fold(british) == american


REPORT = """INDICATION: Cough, rule out pneumonia.
The heart is mildly enlarged. No pneumothorax. Left effusion, possibly with atelectasis.
IMPRESSION: Clear right lung.
"""


def test_a_report_is_explained() -> None:
    found = explain(read_sections(REPORT))
    said = {m.term: (status_of(m), m.rule) for sentence in found.sentences for m in sentence.mentions}
    assert said == {
        "heart": ("named", ""),
        "cardiomegaly": ("present", ""),
        "pneumothorax": ("absent", "no"),
        "pleural effusion": ("present", ""),
        "atelectasis": ("uncertain", "possibly"),
        "lung": ("normal", ""),
    }
    assert [sentence.section for sentence in found.sentences] == ["findings"] * 3 + ["impression"]
    assert [each.reason for each in found.left_out] == ["what was asked"]
    assert [finding["pathology"] for finding in found.findings] == ["cardiomegaly", "pleural effusion"]
    foreign = explain(Sections("Kein Erguss. Keine Stauung.", ""))
    assert foreign.language == "German"
    assert [(sentence.text, sentence.mentions) for sentence in foreign.sentences] == [
        ("Kein Erguss. Keine Stauung.", ())
    ]


def test_a_report_is_explained_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "report.txt"
    file.write_text(REPORT)
    runner = CliRunner()
    shown = runner.invoke(app, ["explain", str(file)]).output
    assert "pneumothorax: absent (pleura) <- 'no'" in shown
    assert "what was asked: Cough, rule out pneumonia." in shown
    told = json.loads(runner.invoke(app, ["explain", "-", "--json"], input=REPORT).output)
    assert [finding["pathology"] for finding in told["findings"]] == ["cardiomegaly", "pleural effusion"]
    file.write_bytes("No effusion.".encode("utf-16"))
    for wrong in (file, tmp_path / "none.txt"):
        with pytest.raises(InputError, match=f"{wrong}: can't be read as text"):
            runner.invoke(app, ["explain", str(wrong)], catch_exceptions=False)
