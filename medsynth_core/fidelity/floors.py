"""The refusal to publish images that don't look like real films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medsynth_core.errors import FidelityError
from medsynth_core.fidelity.figures import FIDELITY
from medsynth_core.fidelity.settings import FidelityFloors

Row = Mapping[str, Any]
TOKENIZER, LANGUAGE_MODEL = "the image tokenizer", "the language model"
_OF_SIDE = {"rendered": "tokenizer", "synthetic": "images"}
_WHAT = {
    "rendered": "of the real films that the image tokenizer rendered",
    "synthetic": "of the accepted images",
}
_MEND = {
    TOKENIZER: "Mend that with more models.vqgan.train.steps, more codes or less downsampling (fewer "
    "models.vqgan.channels)",
    LANGUAGE_MODEL: "Mend that with more models.llm.train.steps, a larger models.llm, or a lower synthesis.temperature",
}


def keep_floors(rows: Sequence[Row], floors: FidelityFloors) -> list[dict[str, Any]]:
    """Returns the figures, each with the ``floor`` of its side or None.

    Raises:
        FidelityError: a fidelity is below its floor, and chance doesn't explain it.
    """
    of_side = {side: getattr(floors, name) for side, name in _OF_SIDE.items()}
    kept = [{**row, "floor": of_side[row["side"]] if row["metric"] == FIDELITY else None} for row in rows]
    for side in _OF_SIDE:
        short = [row for row in kept if row["side"] == side and _is_short(row)]
        if short:
            raise FidelityError(_refusal(min(short, key=lambda row: row["value"]), rows))
    return kept


def whose_fault(space: str, rows: Sequence[Row]) -> str | None:
    """Returns where most of the shortfall of the images' fidelity in a space comes from; None where it is unknown or
    the images fall no shorter than real films by chance."""
    found = {row["side"]: row for row in rows if row["metric"] == FIDELITY and row["space"] == space}
    if any(side not in found or found[side]["value"] is None for side in _OF_SIDE):
        return None
    images, renderings, real = found["synthetic"]["value"], found["rendered"]["value"], found["synthetic"]["real"]
    if found["synthetic"]["high"] >= real:
        return None
    return TOKENIZER if real - renderings >= renderings - images else LANGUAGE_MODEL


def _is_short(row: Row) -> bool:
    return row["floor"] is not None and row["value"] is not None and row["high"] < row["floor"]


def _refusal(row: Row, rows: Sequence[Row]) -> str:
    setting = f"release.min_fidelity.{_OF_SIDE[row['side']]}"
    fault = TOKENIZER if row["side"] == "rendered" else whose_fault(row["space"], rows) or LANGUAGE_MODEL
    return (
        f"not published: fidelity ({row['space']}) is {row['value']:.3g} ({row['low']:.3g} to {row['high']:.3g}), "
        f"below {setting}={row['floor']:g}: so few {_WHAT[row['side']]} lie within the range of real films, of which "
        f"{row['real']:.3g} do. {fault.capitalize()} is at fault. {_MEND[fault]}, or lower {setting} if you know better"
    )
