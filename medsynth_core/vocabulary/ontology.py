"""The shipped ontology: canonical terms, their kinds and synonyms, and a trie over folded words to find them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        paired: false of an anatomy in the midline: what lies in it has no side.
        whole: of a finding of a whole organ, which has no place or side in it.
        places: where a pathology may be beside its implied anatomy and the parts of that.
        appears_as: a pathology that nobody who reports this one would deny.
        graded: whether a severity says something of it.
        refined: anatomy -> what the pathology is called there.
        listed: whether the ontology has it; an unlisted finding was known by the ending of its word.
    """

    name: str
    kind: Kind
    anatomy: str | None = None
    parent: str | None = None
    side: str | None = None
    paired: bool = True
    whole: bool = False
    places: Sequence[str] = field(default=(), hash=False)
    appears_as: str | None = None
    graded: bool = True
    refined: Mapping[str, str] = field(default_factory=dict, hash=False)
    listed: bool = True


_GRAMMAR = re.compile(r"\(\?<!.*?\)|\\w|\b(?:is|are|appear|remain|again|of|the|both|and|in|a)\b")
_WORDS_A_PATTERN = 2


class Patterns:
    """Regular expressions over the folded words of a sentence, for findings that are said with words between.

    Every pattern asks for two words of its own at least, so it is tried on sentences with two of them alone.
    """

    def __init__(self, patterns: Iterable[tuple[str, Term]]) -> None:
        self._patterns = [(re.compile(rf"\b(?:{pattern})\b"), term) for pattern, term in patterns]
        self._of_word: dict[str, list[int]] = {}
        for number, (pattern, _) in enumerate(self._patterns):
            for word in set(re.findall(r"[a-z]+", _GRAMMAR.sub(" ", pattern.pattern.replace("\\b", " ")))):
                self._of_word.setdefault(word, []).append(number)

    def find(self, words: Sequence[str]) -> Iterator[tuple[int, int, Term]]:
        """Yields (start, end, term) of what is found, in the order of the patterns."""
        present = Counter(number for word in set(words) for number in self._of_word.get(word, ()))
        tried = sorted(number for number, n in present.items() if n >= _WORDS_A_PATTERN)
        text = " ".join(words) if tried else ""
        for number in tried:
            pattern, term = self._patterns[number]
            for match in pattern.finditer(text):
                start = text.count(" ", 0, match.start())
                yield start, start + match.group().count(" ") + 1, term


class Node(dict[str, "Node"]):
    """A trie node: folded word to next node, with the term that ends here."""

    term: Term | None = None


@dataclass(frozen=True)
class Ontology:
    """Terms by name, the trie of all their wordings, the patterns of findings said with words between, and the
    words that make a finding a kind of it ("patchy")."""

    terms: dict[str, Term]
    trie: Node
    patterns: Patterns
    descriptors: frozenset[tuple[str, ...]]

    def lineage(self, name: str | None) -> tuple[str, ...]:
        """Returns a term's name and those of its ever broader parents; the name alone where it isn't listed."""
        names: list[str] = []
        while name is not None:
            names.append(name)
            term = self.terms.get(name)
            name = term.parent if term is not None else None
        return tuple(names)

    def shows(self, name: str) -> frozenset[str]:
        """Returns the pathologies that can't be denied beside this one: its lineage, and what it appears as."""
        shown: set[str] = set()
        waiting = [name]
        while waiting:
            for each in self.lineage(waiting.pop()):
                term = self.terms.get(each)
                if each not in shown and term is not None and term.appears_as is not None:
                    waiting.append(term.appears_as)
                shown.add(each)
        return frozenset(shown)

    def may_be_in(self, term: Term, place: str) -> bool:
        """Returns whether a pathology can lie in a place: in any, when it implies none."""
        if term.anatomy is None or place in term.places:
            return True
        return self.lineage(place)[-1] == self.lineage(term.anatomy)[-1]

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


@lru_cache(maxsize=8_000)
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
            patterns += [(pattern, term) for pattern in entry.get("patterns", ())]
    for term in terms.values():
        unknown = {term.parent, term.appears_as, term.anatomy, *term.places} - {None} - terms.keys()
        if unknown:
            raise ValueError(f"ontology.yaml: {term.name!r} names {unknown}, which it doesn't list")
    return Ontology(terms, trie, Patterns(patterns), descriptors)
