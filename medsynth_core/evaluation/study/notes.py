"""Notes for those who send a study: what was chosen, and what to see to before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medsynth_core.evaluation.study.films import Film
from medsynth_core.evaluation.study.key import Key

_MOST_FOR_MAIL = 20_000_000
_OF_RELEASE = ("kind", "licence", "studies", "views")
"""What a release says of its corpus."""

Pairs = Sequence[tuple[Film, Film]]
"""A synthetic film and the real one against it."""


def notes(
    key: Key, pairs: Pairs, release: Mapping[str, Any], corpus: Mapping[str, Any], page_bytes: int, folder: str
) -> str:
    """Returns the notes as Markdown; they tell nothing of a single film.

    Args:
        release: its ``release.json``.
        corpus: its ``corpus.json``.
        folder: of the study, for the command that scores it.
    """
    synthetic, real = zip(*pairs, strict=True)
    alike = sum(ours.findings == theirs.findings and ours.view == theirs.view for ours, theirs in pairs)
    splits = ", ".join(f"{n} of {split}" for split, n in Counter(film.split for film in real).items())
    lines = [
        f"# Study {key.study}: for whoever sends it",
        "",
        "Send `study.html` alone. `key.json` says what each film is, and these notes how many there are: keep both.",
        "",
        f"- Synthetic films: {len(synthetic)} of {key.release}, drawn at random from its accepted images.",
        f"- Real films: {len(real)} of the corpus {key.corpus} ({splits}). Its terms: {key.licence}.",
        f"- All are {key.side} x {key.side} pixels; the page has {page_bytes / 1e6:.1f} MB.",
        f"- Real films were matched to them: {alike} of {len(pairs)} pairs have the same view and findings.",
        "",
        "## Before you send it",
        "",
        "- Answer some films yourself. Writing or marks that only real films have tell a reader what they are.",
        "- Tell readers neither how many films of either kind there are nor what is in these notes.",
        *(f"- {doubt}" for doubt in _doubts(pairs, release, corpus, page_bytes)),
        "",
        "## Findings",
        "",
        "Films by what was prompted and by what reports say. What is far apart here may give films away.",
        "",
        "| finding | synthetic | real |",
        "|---|---|---|",
        *_balance(key, pairs),
        "",
        "## When answers are back",
        "",
        "```sh",
        f"medsynth study score {folder} answers-*.json",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _balance(key: Key, pairs: Pairs) -> Iterator[str]:
    for finding in key.findings:
        ours, theirs = (sum(finding in pair[side].findings for pair in pairs) for side in (0, 1))
        yield f"| {finding} | {ours} | {theirs} |"


def _doubts(pairs: Pairs, release: Mapping[str, Any], corpus: Mapping[str, Any], page_bytes: int) -> Iterator[str]:
    """Yields what may make the study worth less, or hard to send."""
    if release["corpus"] != {name: corpus.get(name) for name in _OF_RELEASE}:
        yield "The release was made from another corpus than the one at hand, or from another state of it."
    if not release["own_models"]:
        yield "The release's models were given: whether they learnt from the real films shown isn't known."
    if n := sum(real.split == "train" for _, real in pairs):
        yield f"The generator learnt from {n} of the real films."
    for side, group in ((0, "prompt"), (1, "patient")):
        of_group = Counter(pair[side].group for pair in pairs)
        if (most := max(of_group.values())) > 1:
            yield f"There are up to {most} films of one {group}, which are alike."
    if page_bytes > _MOST_FOR_MAIL:
        yield "Many mail servers refuse a file of this size: send a link, or ask for fewer films."
