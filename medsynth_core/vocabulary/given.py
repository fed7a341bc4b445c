"""Findings that somebody assigned, by any archive's names, as mentions beside those of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import resources

import yaml

from medsynth_core.corpus.records import NO_FINDING, Given
from medsynth_core.corpus.settings import LabelRule
from medsynth_core.vocabulary.mining import Mention, mine_report
from medsynth_core.vocabulary.ontology import load_ontology


@lru_cache(maxsize=1)
def _names() -> tuple[dict[str, str], frozenset[str]]:
    listed = yaml.safe_load(resources.files("medsynth_core.vocabulary").joinpath("names.yaml").read_text("utf-8"))
    return listed["findings"], frozenset(listed["no_findings"])


@lru_cache(maxsize=10_000)
def findings_of(name: str) -> tuple[Mention, ...] | None:
    """Returns the findings that a source's name stands for, asserted; none for what is no finding; None for a name that
    isn't known."""
    plain = " ".join(name.replace("_", " ").lower().split())
    findings, others = _names()
    if plain == NO_FINDING or plain in others:
        return ()
    if plain in findings:
        term = load_ontology().terms[findings[plain]]
        return (Mention(term.name, "pathology", negated=False, uncertain=False, anatomy=term.anatomy),)
    read = tuple(mention for mention in mine_report(name.replace("_", " ")) if mention.kind == "pathology")
    return read if read and all(mention.asserted for mention in read) else None


def given_mentions(given: Iterable[Given]) -> list[Mention]:
    """Returns what is said of findings, and where those are that are there; a name that isn't known says nothing."""
    said = [
        replace(found, negated=each.status == "absent", uncertain=each.status == "uncertain", origin=each.origin)
        for each in given
        for found in findings_of(each.name) or ()
    ]
    places = {mention.anatomy: mention.origin for mention in said if mention.asserted and mention.anatomy}
    return [*said, *(Mention(place, "anatomy", False, False, origin=origin) for place, origin in places.items())]


def unknown_names(given: Iterable[Given]) -> set[str]:
    """Returns the names that aren't known."""
    return {each.name for each in given if findings_of(each.name) is None}


def combined(report: str, mined: Sequence[Mention], given: Sequence[Given], rule: LabelRule) -> list[Mention]:
    """Returns what is said of a study's findings.

    Args:
        report: its text; where it is empty, only the given findings count.
        mined: what the report mentions.
        rule: which of the two counts where there are both. With ``both``, what a report says of a finding is left out
            where something else is given, and of a chest that is given as normal all that it asserts.
    """
    if not given or (rule == "text" and report.strip()):
        return list(mined)
    said = given_mentions(given)
    if rule != "both" or not report.strip():
        return said
    statuses: dict[str, set[str]] = {}
    for mention in said:
        statuses.setdefault(mention.term, set()).add(mention.status)
    normal = any(each.name == NO_FINDING and each.status == "present" for each in given)

    def stands(mention: Mention) -> bool:
        if mention.kind != "pathology":
            return True
        if mention.term in statuses:
            return mention.status in statuses[mention.term]
        return not (normal and mention.asserted)

    return [*(mention for mention in mined if stands(mention)), *said]
