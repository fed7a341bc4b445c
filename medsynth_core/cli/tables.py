"""Tables of a release, of a plan of prompts and of a difference for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from medsynth_core.evaluation.page.provenance import filter_lines
from medsynth_core.prompts.plan import PromptPlan
from medsynth_core.release.diff import ReleaseDiff
from medsynth_core.release.reader import Release
from medsynth_core.storage.index import find_entry
from medsynth_core.storage.withdrawn import read_withdrawal
from medsynth_core.vocabulary.explain import Explained, status_of

if TYPE_CHECKING:
    from medsynth_core.synthesis.status import RunStatus

_COLOURS = {"present": "green", "absent": "red", "uncertain": "yellow", "normal": "cyan", "named": "dim"}


def explained_report(found: Explained) -> None:
    """Prints how a report is read."""
    console = Console(highlight=False)
    if found.language is not None:
        console.print(f"in {found.language}: not mined, the rules are for English", style="bold", markup=False)
    section = ""
    for sentence in found.sentences:
        if sentence.section != section:
            section = sentence.section
            console.print(section.upper(), style="bold")
        console.print(f"  {sentence.text}", markup=False)
        for mention in sentence.mentions:
            status = status_of(mention)
            said = [mention.side if mention.side != "none" else "", mention.severity or "", mention.anatomy or ""]
            about = ", ".join(filter(None, said))
            why = f" <- {mention.rule!r}" if mention.rule else ""
            line = f"    {mention.term}: {status}{f' ({about})' if about else ''}{why}"
            console.print(line, style=_COLOURS[status], markup=False)
    if found.left_out:
        console.print("LEFT OUT", style="bold")
    for part in found.left_out:
        console.print(f"  {part.reason}: {part.text}", style="dim", markup=False)


def release_tables(release: Release) -> None:
    """Prints what a release holds."""
    about = release.info
    counts = about["counts"]
    console = Console()
    summary = Table(title=f"{release.name}  (synthetic, not for diagnosis)", show_header=False)
    summary.add_row("images", f"{counts['accepted']} accepted of {counts['requested']} requested")
    for reason, n in {**counts["rejected"], **counts["failed"]}.items():
        summary.add_row(f"  {reason}", str(n))
    if about.get("parent"):
        summary.add_row("  added", f"{about['parent']['added']} to {about['parent']['tag']}")
    summary.add_row("prompts", f"{about['prompts']['accepted']} by {about['prompts']['provider']}")
    summary.add_row("corpus", f"{about['corpus']['kind']} ({about['corpus']['licence']})")
    summary.add_row("image size", f"{about['image_size']} x {about['image_size']}")
    if (entry := find_entry(release.store, release.dir_md5)) is not None and entry.run is not None:
        made = entry.run
        summary.add_row(
            "made by", f"run {made.flow_run or 'of dvc repro'} on {made.host}, code {made.code or 'unknown'}"
        )
        for name, value in made.changes.items():
            summary.add_row("  in this run alone", f"{name}={json.dumps(value)}")
    if release.dir_md5 and (mark := read_withdrawal(release.store, release.dir_md5)) is not None:
        summary.add_row("WITHDRAWN", str(mark))
    summary.add_row("spec", about["spec_hash"])
    for name, digest in about["model_digests"].items():
        summary.add_row(name, digest[:16])
    console.print(summary)
    filters = Table("filter", "settings", "bounds")
    for line in filter_lines(about):
        filters.add_row(line.name, line.settings if line.ran else "didn't run", line.bounds if line.ran else "")
    console.print(filters)
    table = Table("prompted pathology", "images")
    for name, n in about["pathologies"].items():
        table.add_row(name, str(n))
    console.print(table)


def plan_tables(plan: PromptPlan) -> None:
    """Prints what prompts will be asked for, and what they will cost."""
    console = Console()
    sizes = ", ".join(f"{n} with {size}" for size, n in sorted(plan.findings_a_prompt.items()))
    table = Table(title=f"{plan.requested} prompts ({sizes} findings)")
    for heading in plan.rows[0]:
        table.add_column(heading, justify="left" if heading == "pathology" else "right")
    for row in plan.rows:
        table.add_row(*row.values())
    console.print(table)
    for heading, counts in (("side", plan.sides), ("severity", plan.severities), ("place", plan.places)):
        console.print(f"{heading}: {', '.join(f'{name} {n}' for name, n in counts.items())}")
    console.print(f"cost: {plan.cost}")


def diff_tables(found: ReleaseDiff) -> None:
    """Prints how two releases differ."""
    console = Console()
    console.print(f"from {found.a} to {found.b}")
    summary = Table(show_header=False)
    summary.add_row("images that came", str(found.came))
    summary.add_row("images that went", str(found.went))
    summary.add_row("images kept", f"{found.kept}" + (f" ({found.changed} with other bytes)" if found.changed else ""))
    summary.add_row("files new / shared", f"{found.new_files} / {found.shared_files}")
    console.print(summary)
    for kind, shift in found.shifts.items():
        table = Table(kind, "before", "after", "share (moved)", caption=f"Jensen-Shannon distance {shift.distance:.3f}")
        n_before, n_after = sum(shift.before.values()) or 1, sum(shift.after.values()) or 1
        for name, after in shift.after.items():
            before = shift.before.get(name, 0)
            moved = 100 * (after / n_after - before / n_before)
            table.add_row(name, str(before), str(after), f"{100 * after / n_after:.1f} % ({moved:+.1f})")
        console.print(table)
    if found.settings:
        table = Table("setting", "before", "after")
        for name, (before, after) in found.settings.items():
            table.add_row(name, str(before), str(after))
        console.print(table)


def utility_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints what classifiers learnt from real and from synthetic images; rows with the fields of ``UtilityRow``."""
    console = Console()
    baselines = list(dict.fromkeys(name for row in rows for name in row["gains"]))
    table = Table(
        "trained on",
        "tested on",
        "real",
        "synthetic",
        "AUROC",
        *(f"over {name}" for name in baselines),
        "ECE",
        caption="AUROC, its gain over others of the same seeds, and calibration error, each with its 95 % interval",
    )
    gain = "{:+.3f}\n{:+.3f}..{:+.3f}".format
    for row in rows:
        what = f"few {row['rare']}" if row["rare"] else f"{row['real_share']:.0%}"
        table.add_row(
            row["setting"] if row["setting"] == "synthetic" else f"{row['setting']} ({what})",
            row["tested_on"],
            str(row["n_real"]),
            str(row["n_synthetic"]),
            "{:.3f}\n{:.3f}..{:.3f}".format(row["auroc"], *row["interval"]),
            *(gain(*row["gains"][name]) if name in row["gains"] else "" for name in baselines),
            "{:.3f}".format(row["calibration_error"][0]),
        )
    console.print(table)


def status_table(found: RunStatus) -> Table:
    """Returns how far a run in the store is."""
    table = Table(title=f"run {found.run_id}", show_header=False)
    table.add_row("shards", f"{found.made} of {found.shards} made, {found.missing} missing, {found.in_work} in work")
    if found.set_aside:
        table.add_row("  set aside", f"{found.set_aside}: workers were lost with them")
    share = found.accepted / found.requested if found.requested else 0.0
    table.add_row("images", f"{found.accepted} accepted of {found.requested} ({share:.1%})")
    for reason, n in {**found.rejected, **found.failed}.items():
        table.add_row(f"  {reason}", f"{n} ({n / found.requested:.1%})")
    table.add_row(
        "pace", "not known yet" if found.images_per_s is None else f"{found.images_per_s:.1f} images a second"
    )
    left = "not known yet" if found.left_s is None else str(timedelta(seconds=round(found.left_s)))
    table.add_row("time left", left)
    table.add_row("prompts cost", f"{found.spent_usd:.2f} USD")
    return table
