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
        whole: of a finding of a whole organ, which has no place or side in it.
        refined: anatomy -> what the pathology is called there.
        listed: whether the ontology has it; an unlisted finding was known by the ending of its word.
    """

    name: str
    kind: Kind
    anatomy: str | None = None
    parent: str | None = None
    side: str | None = None
    whole: bool = False
    refined: Mapping[str, str] = field(default_factory=dict, hash=False)
    listed: bool = True


class Node(dict[str, "Node"]):
    """A trie node: folded word to next node, with the term that ends here."""

    term: Term | None = None


@dataclass(frozen=True)
class Ontology:
    """Terms by name, the trie of all their wordings, the patterns of findings said with words between, and the
    words that make a finding a kind of it ("patchy")."""

    terms: dict[str, Term]
    trie: Node
    patterns: tuple[tuple[re.Pattern[str], Term], ...]
    descriptors: frozenset[tuple[str, ...]]

    def lineage(self, name: str | None) -> tuple[str, ...]:
        """Returns a term's name and those of its ever broader parents; the name alone where it isn't listed."""
        names: list[str] = []
        while name is not None:
            names.append(name)
            term = self.terms.get(name)
            name = term.parent if term is not None else None
        return tuple(names)

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
    tree = yaml.safe_load(text)
    descriptors = frozenset(tuple(fold(w) for w in phrase.split()) for phrase in tree.pop("descriptors"))
    for kind, entries in tree.items():
        for name, entry in entries.items():
            term = Term(
                name, kind, **{key: value for key, value in entry.items() if key not in {"synonyms", "patterns"}}
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
    for term in terms.values():
        if term.parent is not None and term.parent not in terms:
            raise ValueError(f"ontology.yaml: parent {term.parent!r} of {term.name!r} is not a term")
    return Ontology(terms, trie, tuple(patterns), descriptors)
