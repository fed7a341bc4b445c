"""How real the images of a release look, as sentences read off its ``release.json``: for the card, croissant.json and
the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medsynth_core.fidelity.figures import COVERAGE, FIDELITY, RECALL, TOLD_APART
from medsynth_core.fidelity.floors import whose_fault
from medsynth_core.release.facts import About

Row = Mapping[str, Any]
_TELLERS = {"spectrum": "a linear test on spectra", "network": "a small network on the pixels"}
_SPACES = {"spectrum": "frequencies and edges", "texture": "texture", "layout": "layout"}
_TOLD = (
    (0.9, "are told at a glance from"),
    (0.7, "are often told from"),
    (0.6, "are sometimes told from"),
    (0.0, "are hardly told from"),
)
"""Verdicts by the AUC from which they hold."""


def looks(about: About) -> list[str]:
    """How far the images look like real films, the whole first, then whose fault what is short is."""
    found = about.get("fidelity")  # releases of earlier versions have none
    if found is None:
        return ["How far the images look like real films was not measured."]
    rows = [row for row in found["figures"] if row["value"] is not None]
    if not rows:
        reason = found["figures"][0]["reason"]
        return [f"How far the images look like real films was not measured: {reason}."]
    told = {(row["side"], row["against"], row["space"]): row for row in rows if row["metric"] == TOLD_APART}
    within = {(row["side"], row["space"]): row for row in rows if row["metric"] == FIDELITY}
    films = "phantoms" if about["corpus"]["kind"] == "phantom" else "real films"
    sentences = _told_apart(told, films) + _within(within, films)
    sentences += _faults(rows, told, {space for _, space in within}, films)
    return sentences + _diversity(rows, found.get("low_diversity"), films)


def _told_apart(told: Mapping[tuple[str, str, str], Row], films: str) -> list[str]:
    """What tells the images from real films."""
    whole = {space: told[key] for space in _TELLERS if (key := ("synthetic", "real", space)) in told}
    if not whole:
        return []
    most = max(row["value"] for row in whole.values())
    verdict = next(words for least, words in _TOLD if most >= least)
    said = " and ".join(
        f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}) by {_TELLERS[space]}"
        for space, row in whole.items()
    )
    return [f"The images {verdict} {films} that no model learnt from: AUC {said}; 0.5 is a guess."]


def _within(within: Mapping[tuple[str, str], Row], films: str) -> list[str]:
    """Which share of the images lies within the range of real films, in the space where it is smaller."""
    ours = [row for (side, _), row in within.items() if side == "synthetic"]
    if not ours:
        return []
    row = min(ours, key=lambda each: each["value"])
    return [
        f"Fidelity: {row['value']:.0%} of the images ({row['low']:.0%} to {row['high']:.0%}) lie within the range of "
        f"such {films} in {_SPACES[row['space']]}, as {row['real']:.0%} of those do."
    ]


def _faults(
    rows: Sequence[Row],
    told: Mapping[tuple[str, str, str], Row],
    spaces: set[str],
    films: str,
) -> list[str]:
    """What the image tokenizer alone does to real films, what the language model adds, and who falls short."""
    parts = [row for row in rows if row["metric"] == FIDELITY and row["side"] == "rendered"]
    if not parts:
        return []
    row = min(parts, key=lambda each: each["value"])
    said = (
        f"Encoded and decoded by the image tokenizer alone, {row['value']:.0%} of the {films} stay within their range"
    )
    if alone := told.get(("rendered", "real", "spectrum")):
        said += f"; {_TELLERS['spectrum']} tells them from their originals with an AUC of {alone['value']:.2f}"
    if added := told.get(("synthetic", "rendered", "spectrum")):
        said += f", and the images from them with {added['value']:.2f}"
    faults = {fault for space in sorted(spaces) if (fault := whose_fault(space, rows)) is not None}
    return [f"{said}."] + ([f"What is short is mostly the fault of {' and '.join(sorted(faults))}."] if faults else [])


def _diversity(rows: Sequence[Row], low: float | None, films: str) -> list[str]:
    """How much of what real films vary by the images reach, where they reach least of it; whether that is little."""
    found = [row for row in rows if row["metric"] in (RECALL, COVERAGE) and row["real"]]
    if not found:
        return []
    row = min(found, key=lambda each: each["value"] / each["real"])
    share = row["value"] / row["real"]
    said = (
        f"Diversity: {row['metric']} of {films} in {_SPACES[row['space']]} is {row['value']:.2f}, where as many "
        f"training images get {row['real']:.2f}"
    )
    if low is None or share >= low:
        return [f"{said}."]
    return [f"{said}: {share:.0%} of it, below release.low_diversity={low:g}. The images are too much alike."]
