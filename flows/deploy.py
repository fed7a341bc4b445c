"""Registers the deployments of prefect.yaml and the automations of infra/automations.yaml with a Prefect server.

``python -m flows.deploy --webhook URL``; run again, it changes what is there. It needs a checkout, as deployments do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger
from pydantic import SecretStr

_ROOT = Path(__file__).parent.parent
_BLOCK = "medsynth-alarm"


def main() -> None:
    """Parses the command line and registers everything."""
    parser = argparse.ArgumentParser(description="Registers deployments and automations with a Prefect server.")
    parser.add_argument("--webhook", help='address that is sent {"text": ...} when an automation rings')
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    if (code := subprocess.run(command, cwd=_ROOT, check=False).returncode) != 0:
        sys.exit(code)
    if arguments.webhook is None:
        print("no automations: name --webhook URL to be told what happens")
        return
    for name in register(arguments.webhook):
        print(f"automation {name}")


def register(webhook: str) -> Iterator[str]:
    """Makes or changes the automations, and the block that holds the webhook's address; yields their names."""
    block = Webhook(method="POST", url=SecretStr(webhook))
    block_id = block.save(_BLOCK, overwrite=True)
    for entry in yaml.safe_load((_ROOT / "infra" / "automations.yaml").read_text("utf-8")):
        _made(entry, block_id)
        yield entry["name"]


def _made(entry: Mapping[str, Any], block_id: Any) -> None:
    trigger = dict(entry["trigger"])
    within = timedelta(seconds=trigger.pop("within", 0))
    action: Any
    if "crash" in entry:
        action = ChangeFlowRunState(state=StateType.CRASHED, message=entry["crash"])
    else:
        action = CallWebhook(block_document_id=block_id, payload=json.dumps({"text": entry["message"]}))
    wanted = Automation(
        name=entry["name"],
        description=entry["description"],
        trigger=EventTrigger(**trigger, within=within, threshold=1),
        actions=[action],
    )
    try:
        there = Automation.read(name=entry["name"])
    except ValueError:
        wanted.create()
        return
    there.description, there.trigger, there.actions = wanted.description, wanted.trigger, wanted.actions
    there.update()


if __name__ == "__main__":
    main()
