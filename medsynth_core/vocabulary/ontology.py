"""The shipped ontology: canonical terms, their kinds and synonyms, and a trie over folded words to find them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Literal

import yaml

Kind = Literal["anatomy", "pathology", "device", "other"]

_IRREGULAR = {
    "apices": "apex",
    "bases": "base",
    "vertebrae": "vertebra",
    "hila": "hilum",
    "bullae": "bulla",
    "metastases": "metastasis",
    "atelectases": "atelectasis",
    "pneumothoraces": "pneumothorax",
    "axillae": "axilla",
    "bronchi": "bronchus",
    "scapulae": "scapula",
    "granulomata": "granuloma",
    "sulci": "sulcus",
    "oedema": "edema",
    "tumour": "tumor",
}


@dataclass(frozen=True)
class Term:
    """A canonical term.

    Attributes:
        name: what it is called in vocabularies, prompts and labels.
        kind: ``other`` is a phrase that only looks like a finding.
        anatomy: where a pathology is when its sentence doesn't say.
        parent: a broader term, or None.
        side: of an anatomy that exists on one side only.
        refined: anatomy -> what the pathology is called there.
    """

    name: str
    kind: Kind
    anatomy: str | None = None
    parent: str | None = None
    side: str | None = None
    refined: Mapping[str, str] = field(default_factory=dict, hash=False)


class Node(dict[str, "Node"]):
    """A trie node: folded word to next node, with the term that ends here."""

    term: Term | None = None


@dataclass(frozen=True)
class Ontology:
    """Terms by name, the trie of all their wordings, and the patterns of findings said with words between."""

    terms: dict[str, Term]
    trie: Node
    patterns: tuple[tuple[re.Pattern[str], Term], ...]

    def longest(self, words: Sequence[str], start: int) -> tuple[int, Term] | None:
        """Returns (end, term) of the longest wording that begins at ``start``, or None."""
        node, best = self.trie, None
        for position in range(start, len(words)):
            following = node.get(words[position])
            if following is None:
                break
            node = following
            if node.term is not None:
                best = position + 1, node.term
        return best


def fold(word: str) -> str:
    """Returns a lower-case word with its plural ending removed."""
    word = word.lower()
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")):
        if word.endswith("ies"):
            return word[:-3] + "y"
        return word[:-2] if word.endswith("sses") else word[:-1]
    return word


@lru_cache(maxsize=1)
def load_ontology() -> Ontology:
    """Returns the shipped ontology."""
    text = resources.files("medsynth_core.vocabulary").joinpath("ontology.yaml").read_text("utf-8")
    terms: dict[str, Term] = {}
    trie = Node()
    patterns = []
    for kind, entries in yaml.safe_load(text).items():
        for name, entry in entries.items():
            term = Term(
                name, kind, entry.get("anatomy"), entry.get("parent"), entry.get("side"), entry.get("refined", {})
            )
            terms[name] = term
            for wording in (name, *entry["synonyms"]):
                node = trie
                for word in re.findall(r"[a-z0-9]+", wording.lower()):
                    node = node.setdefault(fold(word), Node())
                if node.term is not None and node.term.name != name:
                    raise ValueError(f"ontology.yaml: {wording!r} belongs to {node.term.name!r} and {name!r}")
                node.term = term
            patterns += [(re.compile(rf"\b(?:{p})\b"), term) for p in entry.get("patterns", ())]
    return Ontology(terms, trie, tuple(patterns))
