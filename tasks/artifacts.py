"""Artifacts for the Prefect UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from medsynth_core.storage.reports import report_key
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.tree import Config


def show_counts(number: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Shows what each shard of a round accepted and rejected."""
    table = [
        {"shard": row["shard"], "requested": row["requested"], "accepted": row["accepted"], **row["rejected"]}
        for row in sorted(rows, key=lambda row: int(row["shard"]))
    ]
    create_table_artifact(key="shards", table=table, description=f"Verdicts by shard, round {number}")


def show_release(root: str, config: Config, tag: str, release: Mapping[str, Any]) -> None:
    """Shows the release with its contact sheet, small enough to be inlined, and a link to its page."""
    from medsynth_core.evaluation.contact_sheet import as_data_url

    sheet = Path(root) / "data" / "report" / "contact_sheet.png"
    counts, page = release["counts"], _page_url(root, config, tag)
    create_link_artifact(key="report", link=page, link_text=f"page of {tag}", description=f"HTML page of {tag}")
    rejected = "\n".join(f"| rejected {reason} | {n} |" for reason, n in counts["rejected"].items())
    create_markdown_artifact(
        key="release",
        description=f"Release {tag}",
        markdown=(
            f"# {tag}\n\n| what | images |\n|---|---|\n| requested | {counts['requested']} |\n"
            f"| accepted | {counts['accepted']} |\n{rejected}\n\n{_added(release)}"
            f"dataset `{release['dir_md5']}`\n\n[page]({page}): `{page}`\n\n![contact sheet]({as_data_url(sheet)})\n"
        ),
    )


def _page_url(root: str, config: Config, tag: str) -> str:
    """Returns where the release's page lies in the store: file:///... or s3://..."""
    return open_store(config.store, Path(root)).url_of(report_key(tag))


def _added(release: Mapping[str, Any]) -> str:
    parent = release["parent"]
    return f"{parent['added']} images were added to {parent['tag']}.\n\n" if parent else ""
