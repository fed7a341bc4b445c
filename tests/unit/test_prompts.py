import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError
from medsynth_core.models.condition import RequestedFinding
from medsynth_core.prompts import stage
from medsynth_core.prompts.account import Account, Budget
from medsynth_core.prompts.adherence import adherence_problem
from medsynth_core.prompts.ledger import Ledger
from medsynth_core.prompts.messages import read_answer, told_vocabulary
from medsynth_core.prompts.providers.template import TemplateProvider
from medsynth_core.prompts.records import Assignment, Draft, PromptRequest, Reply, Usage
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.prompts.settings import PromptsConfig, PromptsParams
from medsynth_core.prompts.similarity import SeenTexts, distinct_ngrams
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.vocabulary import FindingCount, PairCount, TermCount, Vocabulary
from medsynth_core.workspace.tree import Config

EFFUSION = PromptRequest("p0", (RequestedFinding("pleural effusion", "pleura", "left", "mild"),), "frontal")
CONSOLIDATION = PromptRequest("p0", (RequestedFinding("consolidation", "lower lobe", "right", None),), "frontal")
NORMAL = PromptRequest("p0", (), "frontal")


@pytest.mark.parametrize(
    ("text", "request_", "reason"),
    [
        ("Small left pleural effusion. Heart size is normal.", EFFUSION, None),
        ("Small right pleural effusion. Heart size is normal.", EFFUSION, "side"),
        ("Pleural effusion, small. Heart size is normal.", EFFUSION, "side"),
        ("Large left pleural effusion. Heart size is normal.", EFFUSION, "severity"),
        ("Left pleural effusion. Heart size is normal.", EFFUSION, "severity"),
        ("No left pleural effusion. Heart size is normal.", EFFUSION, "missing"),
        ("Possible small left pleural effusion. Heart size is normal.", EFFUSION, "missing"),
        ("Small left pleural effusion and a pneumothorax.", EFFUSION, "unasked"),
        ("Possible pneumothorax. Small left pleural effusion.", EFFUSION, "unasked"),
        ("Small left pleural effusion. A pacemaker is in place.", EFFUSION, "unasked"),
        ("Small left pleural effusion with bronchiolitis.", EFFUSION, "unasked"),
        ("Small left pleural effusion, unchanged since the prior study.", EFFUSION, "comparison"),
        ("Small left pleural effusion, discussed with Dr. Smith.", EFFUSION, "private"),
        ("Effusion.", EFFUSION, "length"),
        ("Findings: small left pleural effusion.", EFFUSION, "style"),
        ("Small left pleural effusion. Follow-up is recommended.", EFFUSION, "style"),
        ("Small left pleural effusion of 3 cm.", EFFUSION, "style"),
        ("Small left pleural effusion. No mass. no mass.", EFFUSION, "style"),
        ("small left pleural effusion", EFFUSION, "style"),
        ("Small left pleural effusion. There is no pleural effusion.", EFFUSION, "contradiction"),
        ("Small left pleural effusion. No right pleural effusion.", EFFUSION, None),
        ("Small left pleural effusion. No acute cardiopulmonary abnormality.", EFFUSION, "contradiction"),
        ("Small left pleural effusion. The pleura is normal.", EFFUSION, "contradiction"),
        ("Right lower lobe consolidation. Heart size is normal.", CONSOLIDATION, None),
        ("Right upper lobe consolidation. Heart size is normal.", CONSOLIDATION, "anatomy"),
        ("Right lower lobe and right upper lobe consolidation is seen.", CONSOLIDATION, "anatomy"),
        ("Right lower lobe consolidation. The lungs are clear.", CONSOLIDATION, "contradiction"),
        ("Right lower lobe consolidation. The left lung is clear.", CONSOLIDATION, None),
        ("Right lower lobe consolidation. No focal opacity.", CONSOLIDATION, "contradiction"),
        ("Right lower lobe consolidation, an opacity without effusion.", CONSOLIDATION, None),
        ("Right lower lobe consolidation. No pneumonia is seen.", CONSOLIDATION, "contradiction"),
        ("Right lower lobe consolidation. Normal pulmonary vascularity. No mass.", CONSOLIDATION, None),
        ("Right lower lobe consolidation. Lung volumes are normal.", CONSOLIDATION, None),
        ("Small left pleural effusion. No opacity is seen.", EFFUSION, "contradiction"),
        ("Small left pleural effusion. The costophrenic angles are sharp.", EFFUSION, "contradiction"),
        ("Small left pleural effusion. The right costophrenic angle is sharp.", EFFUSION, None),
        ("Small left pleural effusion. The lungs are clear.", EFFUSION, None),
        ("The lungs are clear. No pleural effusion or pneumothorax.", NORMAL, None),
        ("The lungs are clear. There is mild cardiomegaly.", NORMAL, "unasked"),
        ("No acute cardiopulmonary abnormality is seen.", NORMAL, None),
    ],
)
def test_adherence(text: str, request_: PromptRequest, reason: str | None) -> None:
    problem = adherence_problem(text, request_)
    assert (problem.partition(":")[0] if problem else None) == reason, problem


def asked(pathology: str, anatomy: str | None, severity: str | None = None, side: str = "none") -> PromptRequest:
    """Returns a request of one finding."""
    return PromptRequest("p0", (RequestedFinding(pathology, anatomy, side, severity),), "frontal")


@pytest.mark.parametrize(
    ("text", "request_", "reason"),
    [
        ("Hiatal hernia. The mediastinum is unremarkable.", asked("hiatal hernia", "stomach"), "contradiction"),
        ("Hiatal hernia. The lungs are clear.", asked("hiatal hernia", "stomach"), None),
        ("Granulomatous disease. No opacity is seen.", asked("granulomatous disease", "lung"), "contradiction"),
        ("Granulomatous disease. No lung nodule.", asked("granulomatous disease", "lung"), "contradiction"),
        ("Granulomatous disease. No mass or infiltrate.", asked("granulomatous disease", "lung"), None),
        ("Granulomatous disease at the hilum. No opacity.", asked("granulomatous disease", "hilum"), None),
        (
            "Pulmonary congestion. Both lungs are clear.",
            asked("pulmonary congestion", "pulmonary vasculature"),
            "contradiction",
        ),
        ("Pulmonary congestion. No pulmonary edema.", asked("pulmonary congestion", "pulmonary vasculature"), None),
        ("Pulmonary edema. Normal pulmonary vascularity.", asked("pulmonary edema", "lung"), "contradiction"),
        ("Moderate pleural effusion. Clear lungs.", asked("pleural effusion", "pleura", "moderate"), "contradiction"),
        ("A pleural effusion. Clear lungs.", asked("pleural effusion", "pleura"), "contradiction"),
        (
            "Large left pneumothorax. The left lung is clear.",
            asked("pneumothorax", "pleura", "severe", "left"),
            "contradiction",
        ),
        (
            "Large left pneumothorax. The right lung is clear.",
            asked("pneumothorax", "pleura", "severe", "left"),
            None,
        ),
        ("Cardiomegaly. The cardiomediastinal silhouette is normal.", asked("cardiomegaly", "heart"), "contradiction"),
        ("Cardiomegaly is seen. Normal mediastinal contours.", asked("cardiomegaly", "heart"), None),
        ("Low lung volumes. Lung volumes are normal.", asked("low lung volumes", "lung"), "contradiction"),
        ("Opacity at the hilum. The lungs are clear.", asked("opacity", "hilum"), "contradiction"),
        ("Metastasis in the ribs. No lung nodule.", asked("metastasis", "rib"), None),
        ("Metastasis in the lungs. No lung nodule.", asked("metastasis", "lung"), "contradiction"),
        ("Calcification in the mediastinum. No opacity.", asked("calcification", "mediastinum"), None),
        ("Upper lobe calcification. No opacity is seen.", asked("calcification", "upper lobe"), "contradiction"),
    ],
)
def test_what_a_finding_excludes(text: str, request_: PromptRequest, reason: str | None) -> None:
    """What was wrong in prompts that were read by eye, and what a radiologist may well say beside the same finding."""
    problem = adherence_problem(text, request_)
    assert (problem.partition(":")[0] if problem else None) == reason, problem


def test_the_account_adds_up(trained: tuple[Config, Paths]) -> None:
    account = json.loads((trained[1]["prompts"] / "account.json").read_text())
    assert account["requested"] == account["accepted"] + sum(account["rejected"].values()) == 6
    assert pq.read_table(trained[1]["prompts"] / "prompts.parquet").num_rows == account["accepted"]


def vocabulary(
    findings: dict[tuple[str, str | None, str, str | None], int], pairs: dict[tuple[str, str], int]
) -> Vocabulary:
    """Returns a vocabulary of the given joint counts."""
    counts: Counter[str] = Counter()
    for (pathology, *_), n in findings.items():
        counts[pathology] += n
    return Vocabulary(
        n_studies=2 * counts.total(),
        n_normal=counts.total(),
        min_studies=1,
        anatomy=(),
        pathology=tuple(TermCount(term=term, n_studies=n, n_negated=n) for term, n in counts.most_common()),
        findings=tuple(
            FindingCount(pathology=p, anatomy=a, side=s, severity=v, n=n) for (p, a, s, v), n in findings.items()
        ),
        pairs=tuple(PairCount(a=a, b=b, n=n) for (a, b), n in pairs.items()),
        findings_a_study={"1": 6, "2": 3, "3": 3},
    )


SEEN = {
    ("opacity", "lung base", "left", None): 60,
    ("opacity", "lung apex", "right", "mild"): 40,
    ("opacity", "hilum", "left", None): 1,
    ("pleural effusion", "pleura", "left", "severe"): 50,
    ("cardiomegaly", "heart", "none", "mild"): 45,
    ("consolidation", "lower lobe", "right", None): 20,
    ("lung nodule", "upper lobe", "right", None): 4,
}
REGIONS = ("lung", "heart", "mediastinum", "pulmonary vasculature", "bone")
TOGETHER = {
    ("opacity", "pleural effusion"): 30,
    ("cardiomegaly", "pleural effusion"): 20,
    ("cardiomegaly", "opacity"): 1,
    ("consolidation", "opacity"): 9,
}


def sampled(**changes: object) -> list[PromptRequest]:
    config = PromptsConfig.model_validate({"n": 3000, "max_findings": 3, **changes})
    return sample_requests(vocabulary(SEEN, TOGETHER), config, "frontal", seed=0)


def test_what_was_never_seen_together_is_never_asked_for() -> None:
    """A single study, which may be a slip of mining, doesn't count; nor does a finding with what it is a kind of."""
    requests = sampled()
    together = {
        frozenset({a.pathology, b.pathology}) for r in requests for a in r.findings for b in r.findings if a != b
    }
    assert together == {frozenset({"opacity", "pleural effusion"}), frozenset({"cardiomegaly", "pleural effusion"})}
    places = {(f.pathology, f.anatomy, f.side) for r in requests for f in r.findings}
    assert places == {key[:3] for key in SEEN} - {("opacity", "hilum", "left")}


def test_smoothing_reaches_pairs_of_place_and_severity_and_only_those() -> None:
    def pairs(**changes: object) -> set[tuple[str | None, str | None]]:
        return {(f.anatomy, f.severity) for r in sampled(**changes) for f in r.findings if f.pathology == "opacity"}

    seen = {("lung base", None), ("lung apex", "mild")}
    assert pairs(smoothing=0.0) == seen
    assert pairs(smoothing=0.3) == seen | {("lung base", "mild"), ("lung apex", None)}


def test_flattening_reaches_rare_findings() -> None:
    def share(flatten: float) -> float:
        first = Counter(r.findings[0].pathology for r in sampled(flatten=flatten, max_findings=1) if r.findings)
        return first["lung nodule"] / first.total()

    assert share(0.0) < 0.04
    assert 0.16 < share(1.0) < 0.24


def test_normal_share_and_counts_follow_the_corpus() -> None:
    requests = sampled(normal_fraction=None, max_findings=1)
    assert 0.47 < sum(not r.findings for r in requests) / 3000 < 0.53
    first = Counter(r.findings[0].pathology for r in requests if r.findings)
    assert 0.41 < first["opacity"] / first.total() < 0.51


def test_targets_are_met_with_side_and_severity() -> None:
    requests = sampled(targets={"left opacity": 40, "large pleural effusion": 30, "lung nodule": 20})
    leads = [r.findings[0] for r in requests[:90]]
    assert sum(f.pathology == "opacity" and f.side == "left" for f in leads) >= 40
    assert sum(f.pathology == "pleural effusion" and f.severity == "severe" for f in leads) >= 30
    assert sum(f.pathology == "lung nodule" for f in leads) >= 20
    assert requests[:2000] == sampled(
        n=2000, targets={"left opacity": 40, "large pleural effusion": 30, "lung nodule": 20}
    ), "a request doesn't depend on how many there are"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("emphys", "'emphys' is not in the vocabulary; did you mean"),
        ("pneumothorax", "'pneumothorax' is not in the vocabulary; did you mean"),
        ("opacity and pleural effusion", "more than one finding"),
        ("no opacity", "isn't asserted"),
        ("right pleural effusion", "never shows pleural effusion with side right"),
        ("mild pleural effusion", "severity mild"),
    ],
)
def test_a_target_that_cannot_be_met_is_named(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sampled(targets={target: 1})
    with pytest.raises(ConfigError, match=r"more than prompts\.n=5"):
        sampled(n=5, targets={"opacity": 6})


def test_the_plan_says_what_will_be_asked_and_what_it_costs(trained: tuple[Config, Paths]) -> None:
    config, paths = trained
    prompts = config.prompts.model_copy(
        update={
            "provider": "openai",
            "openai": config.prompts.openai.model_copy(
                update={"usd_per_million_input": 1.0, "usd_per_million_output": 2.0}
            ),
        }
    )
    plan = stage.plan(PromptsParams.of(config.model_copy(update={"prompts": prompts})), paths)
    assert plan.requested == 6 == sum(plan.findings_a_prompt.values())
    assert sum(plan.pathologies.values()) == sum(plan.sides.values()) == sum(plan.severities.values())
    assert plan.usd == pytest.approx((plan.input_tokens + 2 * plan.output_tokens) / 1e6, abs=1e-4)
    assert stage.plan(PromptsParams.of(config), paths).calls == 0


@pytest.mark.parametrize("attempt", [0, 1])
def test_templates_say_what_was_asked_for_and_nothing_else(attempt: int) -> None:
    told = vocabulary(SEEN, TOGETHER)
    account = Account(Ledger(None), "plan", Budget())
    assignments = [Assignment(r.prompt_id, r, attempt) for r in sampled(n=400)]
    drafts = [d for reply in TemplateProvider(told, 0).write(assignments, account) for d in reply.drafts]
    problems = [adherence_problem(d.text or "", a.request) for a, d in zip(assignments, drafts, strict=True)]
    assert not [problem for problem in problems if problem]


PATHOLOGIES = [term for term in load_ontology().terms.values() if term.kind == "pathology"]


@pytest.mark.parametrize("severity", [None, "mild", "severe"])
def test_no_template_contradicts_any_finding_of_the_ontology(severity: str | None) -> None:
    """Every finding, beside denials of every other: writer and judge read the same ontology."""
    told = vocabulary({(term.name, term.anatomy, "none", None): 5 for term in PATHOLOGIES}, {})
    told = told.model_copy(update={"anatomy": tuple(TermCount(term=a, n_studies=9, n_negated=0) for a in REGIONS)})
    problems = []
    for deniable in np.array_split(np.array(told.pathology, dtype=object), 9):
        provider = TemplateProvider(told.model_copy(update={"pathology": tuple(deniable)}), 0)
        for number, term in enumerate(PATHOLOGIES * 2):
            degree = severity if term.graded else None
            request = PromptRequest(f"p{number}", asked(term.name, term.anatomy, degree).findings, "frontal")
            text = written(provider, request)
            problem = adherence_problem(text, request)
            problems += [(text, problem)] if (problem or "").startswith("contradiction") else []
    assert not problems


def written(provider: TemplateProvider, request: PromptRequest) -> str:
    """Returns the first text for a request."""
    account = Account(Ledger(None), "plan", Budget())
    (reply,) = provider.write([Assignment(request.prompt_id, request)], account)
    return reply.drafts[0].text or ""


@pytest.mark.parametrize(
    ("finding", "said"),
    [
        (RequestedFinding("increased interstitial markings", "lung", "none", "mild"), "mildly increased interstitial"),
        (RequestedFinding("low lung volumes", "lung", "none", "severe"), "markedly low lung volumes"),
        (RequestedFinding("scar", "lung", "right", None), "scar in the right lung"),
        (RequestedFinding("opacity", "hilum", "left", None), "left perihilar opacity"),
        (RequestedFinding("pulmonary edema", "hilum", "bilateral", "severe"), "bilateral perihilar pulmonary edema"),
        (RequestedFinding("granuloma", "hilum", "left", "moderate"), "moderate-sized granuloma at the left hilum"),
        (RequestedFinding("hilar enlargement", "hilum", "left", "severe"), "severe left hilar enlargement"),
        (RequestedFinding("atelectasis", "lung base", "left", None), "atelectasis at the left lung base"),
        (RequestedFinding("lung nodule", "lung base", "left", None), "nodule at the left lung base"),
        (
            RequestedFinding("degenerative change", "shoulder", "right", None),
            "degenerative change in the right shoulder",
        ),
        (RequestedFinding("degenerative change", "bone", "none", None), "degenerative change in the bones"),
        (RequestedFinding("fracture", "spine", "none", None), "vertebral fracture"),
        (RequestedFinding("calcification", "mediastinum", "left", "severe"), "large calcification in the left mediast"),
        (RequestedFinding("aortic calcification", "aorta", "none", "severe"), "severe aortic calcification"),
    ],
)
def test_findings_are_said_as_a_radiologist_says_them(finding: RequestedFinding, said: str) -> None:
    request = PromptRequest("p0", (finding,), "frontal")
    text = written(TemplateProvider(vocabulary(SEEN, TOGETHER), 0), request)
    assert said in text.lower()
    assert adherence_problem(text, request) is None


def test_of_what_a_silhouette_includes_a_template_may_speak() -> None:
    told = vocabulary(SEEN, TOGETHER)
    silhouette = TermCount(term="cardiomediastinal silhouette", n_studies=9, n_negated=0)
    provider = TemplateProvider(told.model_copy(update={"anatomy": (silhouette,)}), 0)
    texts = [written(provider, PromptRequest(f"p{number}", (), "frontal")) for number in range(20)]
    assert any("mediastin" in text.lower() for text in texts)


def test_a_finding_is_asked_for_where_it_can_be_drawn() -> None:
    """A place that says where it is goes before one that doesn't; what was seen nowhere else is asked for all the
    same."""
    seen = {
        ("calcification", None, "none", None): 40,
        ("calcification", "hilum", "left", None): 3,
        ("fracture", "bone", "left", None): 30,
        ("fracture", "rib", "left", None): 5,
        ("lymphadenopathy", "lymph node", "none", None): 6,
        ("lymphadenopathy", "hilum", "right", None): 1,
        ("osteopenia", "bone", "none", None): 20,
    }
    config = PromptsConfig.model_validate({"n": 300, "normal_fraction": 0.0, "max_findings": 1})
    requests = sample_requests(vocabulary(seen, {}), config, "frontal", seed=0)
    assert {(f.pathology, f.anatomy, f.side) for r in requests for f in r.findings} == {
        ("calcification", "hilum", "left"),
        ("fracture", "rib", "left"),
        ("lymphadenopathy", "lymph node", "none"),
        ("osteopenia", "bone", "none"),
    }


def test_no_large_finding_is_asked_for_in_a_small_place() -> None:
    seen = {
        ("pleural effusion", "costophrenic angle", "left", "mild"): 10,
        ("pleural effusion", "costophrenic angle", "left", "severe"): 10,
        ("costophrenic angle blunting", "costophrenic angle", "left", "severe"): 10,
    }
    config = PromptsConfig.model_validate({"n": 100, "max_findings": 1})
    requests = sample_requests(vocabulary(seen, {}), config, "frontal", seed=0)
    assert {(f.pathology, f.anatomy, f.severity) for r in requests for f in r.findings} == {
        ("pleural effusion", "costophrenic angle", "mild"),
        ("pleural effusion", "pleura", "severe"),
        ("costophrenic angle blunting", "costophrenic angle", "severe"),
    }


def test_opposites_are_never_asked_for_together() -> None:
    seen = {(name, "lung", "none", None): 50 for name in ("hyperinflation", "low lung volumes", "emphysema")}
    together = {("hyperinflation", "low lung volumes"): 30, ("emphysema", "hyperinflation"): 30}
    config = PromptsConfig.model_validate({"n": 300, "max_findings": 3})
    requests = sample_requests(vocabulary(seen, together), config, "frontal", seed=0)
    pairs = {frozenset(f.pathology for f in r.findings) for r in requests if len(r.findings) > 1}
    assert pairs == {frozenset({"hyperinflation", "emphysema"})}


def test_near_duplicates_are_found_and_others_are_not() -> None:
    seen = SeenTexts(0.8)
    first = (
        "There is a small left pleural effusion. The heart is normal in size. No pneumothorax or consolidation is seen."
    )
    seen.add("p0", first)
    assert seen.nearest(first.upper().replace(".", ",")) == ("p0", 1.0)
    nearly = seen.nearest(first.replace("is seen", "is noted"))
    assert nearly is not None
    assert 0.8 <= nearly[1] < 1.0
    assert seen.nearest(first.replace("left", "large right").replace("small", "moderate")) is None
    assert seen.nearest("Mild cardiomegaly is present. The lungs are clear.") is None
    equal_only = SeenTexts(1.0)
    equal_only.add("p0", first)
    assert equal_only.nearest(first.replace("is seen", "is noted")) is None


def test_distinct_ngrams_by_hand() -> None:
    assert distinct_ngrams(["a b c", "a b d"], 2) == 3 / 4
    assert distinct_ngrams([], 2) == 0.0


def test_a_ledger_keeps_the_first_draft_and_what_was_spent() -> None:
    ledger = Ledger(None)
    assignment = Assignment("key", EFFUSION)
    number = ledger.open_try("plan", 100, 2.0)
    assert ledger.spent("plan") == (100, 2.0)
    assert ledger.unsettled("plan") == 1
    ledger.keep(Reply((assignment,), (Draft("First.", None, Usage(3, 4)),), "raw"), (number, 7, 0.1))
    ledger.keep(Reply((assignment,), (Draft("Second."),), "raw"))
    assert [kept.draft for kept in ledger.drafts(["key", "other"])] == [Draft("First.", None, Usage(3, 4))]
    assert ledger.spent("plan") == (7, 0.1)
    assert ledger.unsettled("plan") == 0
    ledger.drop_try(ledger.open_try("plan", 50, 1.0))
    assert ledger.spent("plan") == (7, 0.1)
    assert ledger.spent("another") == (0, 0.0)


@pytest.mark.parametrize("n", [1, 3, 7])
def test_shares_of_usage_add_up(n: int) -> None:
    shares = Usage(400, 101).shares(n)
    assert (sum(s.input_tokens for s in shares), sum(s.output_tokens for s in shares)) == (400, 101)


def test_an_answer_is_matched_by_id() -> None:
    assignments = [Assignment("a", EFFUSION), Assignment("b", NORMAL)]
    reply = read_answer(
        assignments, '{"prompts": [{"id": "2", "text": "Two."}, {"id": "9", "text": "x"}]}', Usage(4, 4)
    )
    assert [draft.text for draft in reply.drafts] == [None, "Two."]


def test_what_is_told_are_terms_and_wordings_alone(trained: tuple[Config, Paths]) -> None:
    told = told_vocabulary(Vocabulary.load(trained[1]["vocabulary"] / "vocabulary.json"))
    assert set(told) == {"anatomy", "pathology", "kinds_that_may_only_be_denied"}
    assert "n_studies" not in json.dumps(told)
