"""Artifacts for the Prefect UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact


def show_counts(number: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Shows what each shard of a round accepted and rejected."""
    table = [
        {"shard": row["shard"], "requested": row["requested"], "accepted": row["accepted"], **row["rejected"]}
        for row in sorted(rows, key=lambda row: int(row["shard"]))
    ]
    create_table_artifact(key="shards", table=table, description=f"Verdicts by shard, round {number}")


def show_release(root: str, tag: str, release: Mapping[str, Any]) -> None:
    """Shows the release with its contact sheet, small enough to be inlined."""
    from medsynth_core.evaluation.contact_sheet import as_data_url

    sheet = Path(root) / "data" / "report" / "contact_sheet.png"
    counts = release["counts"]
    rejected = "\n".join(f"| rejected {reason} | {n} |" for reason, n in counts["rejected"].items())
    create_markdown_artifact(
        key="release",
        description=f"Release {tag}",
        markdown=(
            f"# {tag}\n\n| what | images |\n|---|---|\n| requested | {counts['requested']} |\n"
            f"| accepted | {counts['accepted']} |\n{rejected}\n\n{_added(release)}"
            f"dataset `{release['dir_md5']}`\n\n![contact sheet]({as_data_url(sheet)})\n"
        ),
    )


def _added(release: Mapping[str, Any]) -> str:
    parent = release["parent"]
    return f"{parent['added']} images were added to {parent['tag']}.\n\n" if parent else ""
