"""Tables of a release for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from medsynth_core.release.reader import Release


def release_tables(release: Release) -> None:
    """Prints what a release holds."""
    about = release.info
    counts = about["counts"]
    console = Console()
    summary = Table(title=f"{release.name}  (synthetic, not for diagnosis)", show_header=False)
    summary.add_row("images", f"{counts['accepted']} accepted of {counts['requested']} requested")
    for reason, n in {**counts["rejected"], **counts["failed"]}.items():
        summary.add_row(f"  {reason}", str(n))
    summary.add_row("prompts", f"{about['prompts']['accepted']} by {about['prompts']['provider']}")
    summary.add_row("corpus", f"{about['corpus']['kind']} ({about['corpus']['licence']})")
    summary.add_row("image size", f"{about['image_size']} x {about['image_size']}")
    summary.add_row("spec", about["spec_hash"])
    for name, digest in about["model_digests"].items():
        summary.add_row(name, digest[:16])
    console.print(summary)
    table = Table("prompted pathology", "images")
    for name, n in about["pathologies"].items():
        table.add_row(name, str(n))
    console.print(table)
