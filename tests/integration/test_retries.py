"""What Prefect tries again, and what it doesn't: with Prefect's own engine and server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from benchmarks.llm_server import LLMServer
from medsynth_core.config import Paths
from medsynth_core.errors import NotReadyError
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config
from tasks.stages import run_task

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


@flow(name="prompts-alone", validate_parameters=False)
def prompts_alone(root: str, config: Config) -> dict[str, Any]:
    return run_task("prompts", root, config)


def test_a_batch_that_is_not_ready_ends_the_run_at_once_and_the_next_run_goes_on(
    server: LLMServer, trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a wait of ``batch_wait_h`` for each of the task's retries."""
    asked = trained[0].prompts.openai.model_copy(
        update={"base_url": server.url, "mode": "batch", "batch_wait_h": 1e-6, "batch_poll_s": 0.02}
    )
    prompts = trained[0].prompts.model_copy(update={"provider": "openai", "openai": asked, "max_attempts": 1})
    config = trained[0].model_copy(update={"prompts": prompts})
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    init_workspace(tmp_path, config)
    shutil.copytree(trained[1]["vocabulary"], tmp_path / "data" / "vocabulary")
    server.polls_until_done = 1000
    with pytest.raises(NotReadyError, match="start the run again") as caught:
        prompts_alone(str(tmp_path), config)
    assert caught.value.exit_code == 10
    assert server.batches["batch-0"]["polls"] <= 2, "it was waited for once"
    server.polls_until_done = 0
    assert prompts_alone(str(tmp_path), config)["accepted"] > 0
    assert len(server.batches) == 1
