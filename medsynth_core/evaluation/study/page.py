"""The page of a study: one HTML file for its readers, with all films inside; it asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from medsynth_core.corpus.records import NO_FINDING
from medsynth_core.evaluation.study.mosaic import Mosaic

_ROLES = ("radiologist", "radiologist in training", "other physician", "radiographer", "somebody else")
_TAKEN = "RSNIZ"
"""Keys that mean something else."""


def write_page(
    path: Path, study: str, tokens: Sequence[str], mosaic: Mosaic, findings: Sequence[str], *, drawings: bool
) -> None:
    """Writes the page. It holds what the arguments say and nothing else, so it can't give a film away.

    Args:
        study: the study's token.
        tokens: of the films, in the order of the mosaic.
        findings: that are asked for, ``NO_FINDING`` first.
        drawings: whether the real films are the phantom's.
    """
    environment = Environment(
        autoescape=True, loader=PackageLoader("medsynth_core.evaluation.study"), trim_blocks=True, lstrip_blocks=True
    )
    style, script = (_source(environment, name) for name in ("study.css", "study.js"))
    data = {
        "study": study,
        "films": list(tokens),
        "nothing": NO_FINDING,
        "side": mosaic.side,
        "columns": mosaic.columns,
        "height": mosaic.height,
        "strips": [f"data:image/png;base64,{base64.b64encode(strip).decode()}" for strip in mosaic.strips],
    }
    page = environment.get_template("study.html.j2").render(
        policy=_policy(style, script),
        style=style,
        script=script,
        data=data,
        study=study,
        n=len(tokens),
        side=mosaic.side,
        drawings=drawings,
        roles=_ROLES,
        findings=_with_letters(findings),
    )
    path.write_text(page, "utf-8")


def _source(environment: Environment, name: str) -> str:
    """Returns a file of the package as it goes into the page, between its tags."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _policy(style: str, script: str) -> str:
    """Returns the content security policy: nothing runs or is shown but what the page came with."""
    own = {kind: f"'sha256-{_digest(text)}'" for kind, text in (("style", style), ("script", script))}
    return (
        f"default-src 'none'; img-src data:; style-src {own['style']}; script-src {own['script']}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _with_letters(findings: Sequence[str]) -> list[tuple[str, str]]:
    """Returns findings with the key of each; N is ``NO_FINDING``'s, and what comes after Y has none."""
    letters: list[Any] = [letter for letter in string.ascii_uppercase if letter not in _TAKEN]
    listed = ["N", *letters, *[""] * len(findings)]
    return list(zip(findings, listed, strict=False))
