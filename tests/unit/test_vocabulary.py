import csv
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medsynth_core.config import Paths
from medsynth_core.cores import processes_for
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.progress import silent
from medsynth_core.vocabulary import stage
from medsynth_core.vocabulary.counts import Counts
from medsynth_core.vocabulary.mining import mine_report, positive_findings
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.phi import looks_private
from medsynth_core.vocabulary.reading import some
from medsynth_core.vocabulary.sentences import split_sentences
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config


def positives(text: str) -> set[str]:
    return {str(finding["pathology"]) for finding in positive_findings(mine_report(text))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No pleural effusion or pneumothorax.", set()),
        ("There is no focal consolidation, pneumothorax, or pleural effusion.", set()),
        ("No pneumothorax. Small left pleural effusion.", {"pleural effusion"}),
        ("No pneumothorax but there is a small effusion.", {"pleural effusion"}),
        ("Pleural effusion is not seen.", set()),
        ("The lungs are clear without evidence of consolidation.", set()),
        ("Negative for pneumothorax.", set()),
        ("Pneumothorax has resolved.", set()),
        ("No change in the right pleural effusion.", {"pleural effusion"}),
        ("Possible small effusion.", set()),
        ("Consolidation cannot be excluded.", set()),
        ("The heart is mildly enlarged.", {"cardiomegaly"}),
        ("The heart is not enlarged.", set()),
        ("Heart size is normal.", set()),
        ("Atelectases at both bases.", {"atelectasis"}),
        ("Elevation of the right hemidiaphragm.", {"elevated hemidiaphragm"}),
        ("XXXX XXXX effusion XXXX.", {"pleural effusion"}),
    ],
)
def test_what_a_sentence_asserts(text: str, expected: set[str]) -> None:
    assert positives(text) == expected


def status(text: str, finding: str) -> str:
    """Returns what a sentence says of a finding, else of kinds of it: present, uncertain, absent or missed."""
    lineage = load_ontology().lineage
    mentions = [m for m in mine_report(text) if m.kind == "pathology"]
    found = [m for m in mentions if m.term == finding] or [m for m in mentions if finding in lineage(m.term)]
    if any(mention.asserted for mention in found):
        return "present"
    if any(mention.uncertain for mention in found):
        return "uncertain"
    return "absent" if found else "missed"


@pytest.mark.parametrize(("name", "size"), [("negation.csv", 359), ("negation-held-back.csv", 160)])
def test_negation_and_uncertainty_on_the_written_sets(name: str, size: int) -> None:
    with (Path(__file__).parents[1] / "data" / name).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wrong = [row for row in rows if status(row["sentence"], row["finding"]) != row["status"]]
    assert len(rows) == size
    assert len(wrong) <= 0.05 * len(rows), wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Large left and small right effusion. Bilateral effusions.", [("left", "severe"), ("right", "mild")]),
        (
            "Bilateral effusions. Tiny left effusion. Moderate right effusion.",
            [("left", "mild"), ("right", "moderate")],
        ),
        ("Bilateral effusions, small. Left effusion. Large right effusion.", [("left", "mild"), ("right", "severe")]),
        ("Left effusion. Right effusion. Moderate bilateral effusions.", [("bilateral", "moderate")]),
        ("Small left effusion and small right effusion. Bilateral effusions.", [("bilateral", "mild")]),
        ("Large left effusion. Bilateral effusions.", [("bilateral", "severe")]),
    ],
)
def test_sides_of_different_severities_stay_apart(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(each["side"], each["severity"]) for each in positive_findings(mine_report(text))] == expected


def test_abbreviations_are_spelt_out() -> None:
    found = {f["pathology"]: f for f in positive_findings(mine_report("RLL opacity w/o PTX. Lt. effusion, s/p fx."))}
    assert (found["opacity"]["side"], found["opacity"]["anatomy"]) == ("right", "lower lobe")
    assert found["pleural effusion"]["side"] == "left"
    assert "pneumothorax" not in found


def test_what_lies_in_the_midline_has_no_side() -> None:
    spine, shoulder = "Left degenerative changes.", "Degenerative changes of the left shoulder."
    sides = [positive_findings(mine_report(text))[0]["side"] for text in (spine, shoulder)]
    assert sides == ["none", "left"]


def test_a_silhouette_and_a_volume_are_no_places() -> None:
    texts = ("Calcification beside the cardiomediastinal silhouette.", "Lung volume loss on the left.")
    found = [positive_findings(mine_report(text))[0] for text in texts]
    assert [(f["pathology"], f["anatomy"]) for f in found] == [("calcification", None), ("volume loss", "lung")]


def test_the_ontology_says_what_contradicts_a_finding() -> None:
    ontology = load_ontology()
    assert ontology.shows("calcified granuloma") == {"calcified granuloma", "granuloma", "lung nodule", "opacity"}
    assert ontology.affected("pleural effusion", None, "mild") == {"pleura", "costophrenic angle"}
    assert ontology.affected("pleural effusion", None, None) == {"pleura", "costophrenic angle", "lung"}
    assert ontology.affected("consolidation", "hilum", None) == {"hilum", "lung"}, "a kind of opacity"
    assert ontology.affected("bronchiolitis", None, None) == frozenset()
    assert ontology.called_normal("cardiomediastinal silhouette") == {
        "cardiomediastinal silhouette",
        "heart",
        "mediastinum",
    }
    assert ontology.excludes("low lung volumes", "hyperinflation")
    assert ontology.excludes("opacity", "consolidation")
    assert not ontology.excludes("emphysema", "hyperinflation")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The lungs are clear.", {"lung"}),
        ("Heart, mediastinum and hila are unremarkable.", {"heart", "mediastinum", "hilum"}),
        ("The cardiomediastinal silhouette is normal.", {"cardiomediastinal silhouette"}),
        ("Lung volumes are normal. Costophrenic angles are sharp.", {"lung volume", "costophrenic angle"}),
        ("Normal heart size. The aorta is tortuous.", {"heart"}),
        ("No acute bony abnormality.", {"bone"}),
        ("The lungs are not clear.", set()),
        ("Lungs are clear of effusion.", set()),
        ("The heart is large, the lungs are clear.", {"lung"}),
        ("Heart size is at the upper limits of normal.", set()),
    ],
)
def test_what_is_called_normal(text: str, normal: set[str]) -> None:
    assert {mention.term for mention in mine_report(text) if mention.normal} == normal


def test_kinds_of_a_finding_and_findings_that_are_not_listed() -> None:
    mentions = mine_report("Patchy ground glass opacity in the left base and signs of bronchiolitis. BRONCHIOLITIS.")
    assert [m.variant for m in mentions if m.term == "opacity"] == ["patchy ground glass opacity"]
    assert [(m.term, m.listed) for m in mentions if not m.listed] == [("bronchiolitis", False)]


def counted(texts: list[str], min_patients: int) -> Counts:
    counts = Counts(min_patients)
    for number, text in enumerate(texts):
        mentions = mine_report(text)
        counts.add(f"patient-{number}", mentions, positive_findings(mentions))
    return counts


def test_only_what_enough_patients_have_enters() -> None:
    """A name at a patient of many reports, or in capitals, enters neither as a term nor as a wording."""
    texts = [
        "Loculated pleural effusion with bronchiolitis.",
        "Loculated effusion, bronchiolitis.",
        "Loculated effusion; Thomasitis was informed of bronchiolitis. Cardiac enlargement.",
        "Free effusion. Called to Thomasitis. Thomasitis agreed. Enlarged heart.",
        "Enlarged heart. ZOSTERITIS. Seen by Thomasitis.",
    ]
    vocabulary, too_rare = counted(texts, 3).vocabulary(500)
    assert vocabulary.terms("pathology") == ["pleural effusion", "bronchiolitis", "cardiomegaly"]
    assert too_rare == 1
    assert [variant.term for variant in vocabulary.variants] == ["loculated pleural effusion"]
    assert vocabulary.pathology[0].wordings == ("effusion",)
    assert vocabulary.pathology[2].wordings == ()


def test_batches_merge_to_what_one_pass_counts() -> None:
    texts = ["Left effusion and atelectasis.", "No effusion.", "Large left effusion.", "Mild atelectasis.", "Clear."]
    whole = counted(texts, 2)
    parts = [Counts(2), Counts(2)]
    for number, text in enumerate(texts):
        mentions = mine_report(text)
        parts[number % 2].add(f"patient-{number}", mentions, positive_findings(mentions))
    parts[1].merge(parts[0])
    assert parts[1].vocabulary(10) == whole.vocabulary(10)


def test_the_vocabulary_does_not_depend_on_the_number_of_processes(
    trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, paths = trained
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus").symlink_to(paths["corpus"])
    monkeypatch.setattr(stage, "processes_for", lambda *_: 2)
    monkeypatch.setattr(stage, "_ROWS_A_BATCH", 50)
    perform("vocabulary", config, tmp_path, silent)
    assert Vocabulary.load(workspace_paths(tmp_path)["vocabulary"] / "vocabulary.json") == Vocabulary.load(
        paths["vocabulary"] / "vocabulary.json"
    )
    again = workspace_paths(tmp_path)
    labels: list[pa.Table] = [pq.read_table(p["vocabulary"] / "labels.parquet") for p in (again, paths)]
    assert labels[0] == labels[1]
    assert labels[0].num_rows == Corpus.open(paths["corpus"]).n_studies()


@pytest.mark.parametrize(
    ("calls", "cores"),
    [
        ({"process_cpu_count": lambda: 3, "sched_getaffinity": lambda _: {0, 1}, "cpu_count": lambda: 8}, 3),
        ({"sched_getaffinity": lambda _: {0, 1}, "cpu_count": lambda: 8}, 2),
        ({"cpu_count": lambda: 8}, 8),
        ({"cpu_count": lambda: None}, 1),
    ],
)
def test_cores_are_counted_on_any_system(
    calls: dict[str, Callable[..., object]], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python 3.13, Linux before it, macOS, and a system that knows nothing offer."""
    for name in ("process_cpu_count", "sched_getaffinity", "cpu_count"):
        monkeypatch.delattr(os, name, raising=False)
    for name, call in calls.items():
        monkeypatch.setattr(os, name, call, raising=False)
    assert processes_for(10**9, 1000) == cores
    assert processes_for(1, 1000) == 1


def test_modifiers_belong_to_their_finding() -> None:
    found = {f["pathology"]: f for f in positive_findings(mine_report(
        "Large left pleural effusion. There is a small nodule in the right upper lobe."))}  # fmt: skip
    assert (found["pleural effusion"]["side"], found["pleural effusion"]["severity"]) == ("left", "severe")
    assert (found["lung nodule"]["side"], found["lung nodule"]["anatomy"]) == ("right", "upper lobe")


def test_sentences_survive_decimals_and_lists() -> None:
    text = "A 1.5 cm nodule is seen. Seen by Dr. Smith today. 1. No effusion. 2. Clear lungs."
    assert split_sentences(text) == [
        "A 1.5 cm nodule is seen.",
        "Seen by Dr. Smith today.",
        "No effusion.",
        "Clear lungs.",
    ]


@pytest.mark.parametrize("text", ["seen by Dr. Jones", "on 3/4/2011", "MRN 12345678", "XXXX", "[**Name**]", "___"])
def test_private_text_is_recognised(text: str) -> None:
    assert looks_private(text) is not None


def test_rare_terms_never_enter(trained: tuple[Config, Paths]) -> None:
    vocabulary = Vocabulary.load(trained[1]["vocabulary"] / "vocabulary.json")
    assert vocabulary.pathology
    assert all(count.n_studies >= 3 for count in (*vocabulary.pathology, *vocabulary.anatomy))
    assert sum(vocabulary.findings_a_study.values()) + vocabulary.n_normal == vocabulary.n_studies


def test_a_corpus_that_says_little_that_is_known_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [
        *["Small left pleural effusion."] * 60,
        *["No active disease."] * 30,
        *["Kein Erguss. Keine Stauung."] * 6,
        *["Seen by Dr. Jones on 3/4/2011, see scan."] * 4,
    ]
    config = _table(tmp_path, texts)
    perform("corpus", config, tmp_path / "w", silent)
    with caplog.at_level("WARNING"):
        report = perform("vocabulary", config, tmp_path / "w", silent)
    assert report.n_silent == 10
    assert "10 of 100 reports say nothing that is known (6 in German)" in caplog.text
    assert "Kein Erguss" in caplog.text
    assert "Jones" not in caplog.text
    assert "2011" not in caplog.text
    page = (tmp_path / "w" / "data" / "vocabulary" / "reading.html").read_text("utf-8")
    assert "Of 100 reports 10 say nothing that is known" in page
    silent_ones, drawn = page.split("<h2>")[1:]
    assert silent_ones.count("<article>") == 10
    assert silent_ones.count("In German: not mined") == 6
    assert drawn.count("<article>") == 50
    assert "pleural effusion: present (left, mild, pleura)" in drawn
    assert "Jones" not in page
    assert "2011" not in page


def test_what_is_left_out_is_counted_and_shown_whatever_the_batches(tmp_path: Path) -> None:
    texts = [
        f"HISTORY: Cough of patient {n}.\nFINDINGS: No effusion.\nCOMPARISON: <None> of {n}." if n % 3 else "Effusion."
        for n in range(120)
    ]
    config = _table(tmp_path, texts)
    assert perform("corpus", config, tmp_path / "w", silent).left_out == {"about the study": 80, "what was asked": 80}
    perform("vocabulary", config, tmp_path / "w", silent)
    page = (tmp_path / "w" / "data" / "vocabulary" / "reading.html").read_text("utf-8")
    assert "<td>what was asked</td>" in page
    assert "Left out, about the study: &lt;None&gt; of" in page
    rows = Corpus.open(tmp_path / "w" / "data" / "corpus").studies().to_pylist()
    assert some([*some(rows[:7]), *some(rows[7:])]) == some(rows)
    assert all(f"<h3>{row['study_id']}</h3>" in page for row in some(rows))


def test_labels_say_what_is_uncertain_and_what_is_denied(tmp_path: Path) -> None:
    texts = [
        "Effusion. No pneumothorax. Possible pneumonia.",
        "Effusion is not excluded. Pneumothorax. No pneumonia.",
    ] * 20
    config = _table(tmp_path, texts)
    perform("corpus", config, tmp_path / "w", silent)
    perform("vocabulary", config, tmp_path / "w", silent)
    rows = pq.read_table(tmp_path / "w" / "data" / "vocabulary" / "labels.parquet").to_pylist()
    said = [{each["pathology"]: each["status"] for each in row["statuses"]} for row in rows]
    # what nobody asserts isn't in the vocabulary
    assert said[0] == {"pleural effusion": "present", "pneumothorax": "absent"}
    assert said[1] == {"pleural effusion": "uncertain", "pneumothorax": "present"}


def _table(folder: Path, texts: list[str]) -> Config:
    """Writes reports of as many patients, and returns the configuration that reads them."""
    path = folder / "reports.csv"
    patients = [f"p{n}" for n in range(len(texts))]
    pd.DataFrame({"text": texts, "filename": "", "patient": patients}).to_csv(path, index=False)
    return parse_config({"corpus": {"kind": "table", "path": str(path), "columns": {"patient": "patient"}}}, "test")
