import pytest

from medsynth_core.config import Config, Paths
from medsynth_core.vocabulary.mining import mine_report, positive_findings
from medsynth_core.vocabulary.phi import looks_private
from medsynth_core.vocabulary.sentences import split_sentences
from medsynth_core.vocabulary.vocabulary import Vocabulary


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
    vocabulary = Vocabulary.load(trained[1].vocabulary / "vocabulary.json")
    assert vocabulary.pathology
    assert all(count.n_patients >= 3 for count in (*vocabulary.pathology, *vocabulary.anatomy))
    assert sum(vocabulary.findings_a_study.values()) + vocabulary.n_normal == vocabulary.n_studies
