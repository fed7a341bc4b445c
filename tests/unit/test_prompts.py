import json

import pyarrow.parquet as pq
import pytest

from medsynth_core.config import Config, Paths
from medsynth_core.errors import ConfigError
from medsynth_core.prompts.adherence import adherence_problem
from medsynth_core.prompts.records import PromptRequest, RequestedFinding
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.vocabulary.vocabulary import Vocabulary

EFFUSION = PromptRequest("p0", (RequestedFinding("pleural effusion", "pleura", "left", "mild"),), "frontal")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Small left pleural effusion. Heart size is normal.", None),
        ("Small right pleural effusion. Heart size is normal.", "side"),
        ("No left pleural effusion. Heart size is normal.", "missing"),
        ("Small left pleural effusion and a pneumothorax.", "unasked"),
        ("Possible pneumothorax. Small left pleural effusion.", "unasked"),
        ("Small left pleural effusion, unchanged since the prior study.", "comparison"),
        ("Small left pleural effusion, discussed with Dr. Smith.", "private"),
        ("Effusion.", "length"),
    ],
)
def test_adherence(text: str, reason: str | None) -> None:
    problem = adherence_problem(text, EFFUSION)
    assert (problem.partition(":")[0] if problem else None) == reason


def test_the_account_adds_up(trained: tuple[Config, Paths]) -> None:
    account = json.loads((trained[1].prompts / "account.json").read_text())
    assert account["requested"] == account["accepted"] + sum(account["rejected"].values()) == 6
    assert pq.read_table(trained[1].prompts / "prompts.parquet").num_rows == account["accepted"]


def test_targets_are_met_and_unknown_ones_named(trained: tuple[Config, Paths]) -> None:
    vocabulary = Vocabulary.load(trained[1].vocabulary / "vocabulary.json")
    config = trained[0].prompts.model_copy(update={"n": 5, "targets": {"pneumothorax": 3}})
    requests = sample_requests(vocabulary, config, "frontal", seed=0)
    assert sum("pneumothorax" in {f.pathology for f in r.findings} for r in requests) >= 3
    assert requests == sample_requests(vocabulary, config, "frontal", seed=0)
    wrong = config.model_copy(update={"targets": {"pneumothorx": 1}})
    with pytest.raises(ConfigError, match="did you mean 'pneumothorax'"):
        sample_requests(vocabulary, wrong, "frontal", seed=0)
