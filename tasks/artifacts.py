"""Artifacts for the Prefect UI. Their keys are of the workspace, so that each has its own history, run by run."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
)
from prefect.runtime import flow_run

from medsynth_core.hashing import sha256_json
from medsynth_core.storage.reports import PAGE, report_key
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.tree import Config


def artifact_key(root: str, what: str) -> str:
    """Returns the key of a workspace's artifact: its folder's name, four digits of its path, what it shows."""
    return re.sub("[^a-z0-9]+", "-", f"{Path(root).name.lower()}-{sha256_json(root)[:4]}-{what}").strip("-")


def show_table(root: str, what: str, table: Sequence[Mapping[str, Any]], description: str) -> None:
    """Shows a table."""
    create_table_artifact(
        key=artifact_key(root, what), table=[dict(row) for row in table], description=_of(description)
    )


def begin_progress(root: str, what: str) -> Any:
    """Returns a new artifact that shows progress, in percent."""
    return create_progress_artifact(progress=0.0, key=artifact_key(root, f"progress-{what}"), description=_of(what))


def show_counts(root: str, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Shows what each shard of a round accepted and rejected."""
    table = [
        {"shard": row["shard"], "requested": row["requested"], "accepted": row["accepted"], **row["rejected"]}
        for row in sorted(rows, key=lambda row: int(row["shard"]))
    ]
    show_table(root, f"shards-{number}", table, f"verdicts by shard, round {number}")


def show_release(root: str, config: Config, tag: str, release: Mapping[str, Any]) -> None:
    """Shows the release with its contact sheet, small enough to be inlined, and where its page is."""
    from medsynth_core.evaluation.contact_sheet import as_data_url

    sheet = Path(root) / "data" / "report" / "contact_sheet.png"
    counts, link = release["counts"], _link(root, config, tag)
    page = f"page on {socket.gethostname()}: `{Path(root) / 'data' / 'report' / PAGE}`"
    if link is not None:
        page = f"[page]({link})"
        about = _of(f"HTML page of {tag}")
        create_link_artifact(key=artifact_key(root, "page"), link=link, link_text=f"page of {tag}", description=about)
    rejected = "\n".join(f"| rejected {reason} | {n} |" for reason, n in counts["rejected"].items())
    create_markdown_artifact(
        key=artifact_key(root, "release"),
        description=_of(f"release {tag}"),
        markdown=(
            f"# {tag}\n\n| what | images |\n|---|---|\n| requested | {counts['requested']} |\n"
            f"| accepted | {counts['accepted']} |\n{rejected}\n\n{_added(release)}"
            f"dataset `{release['dir_md5']}`\n\n{page}\n\n![contact sheet]({as_data_url(sheet)})\n"
        ),
    )


def _of(description: str) -> str:
    """Returns a description with the run that it is of."""
    return f"{description}; run {flow_run.name}"


def _link(root: str, config: Config, tag: str) -> str | None:
    """Returns where a browser finds the release's page: below ``runner.pages_url``, or a link that the store signs."""
    if config.runner.pages_url is not None:
        return f"{config.runner.pages_url.rstrip('/')}/{quote(tag)}/{PAGE}"
    return open_store(config.store, Path(root)).link_to(report_key(tag))


def _added(release: Mapping[str, Any]) -> str:
    parent = release["parent"]
    return f"{parent['added']} images were added to {parent['tag']}.\n\n" if parent else ""
