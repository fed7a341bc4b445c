"""The shipped ontology: canonical terms, their kinds and synonyms, and a trie over folded words to find them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Literal, get_args

import yaml

Kind = Literal["anatomy", "pathology", "device", "other"]
Severity = Literal["mild", "moderate", "severe"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the least on."""
_UNSAID: Severity = "moderate"
"""What a finding of no stated severity may well be."""

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
}
_BRITISH = re.compile(
    r"(?<=[hn])aem|oe(?=dem|soph)|our(?=s?$|ed$)(?<=[lm]our)|is(?=(?:e|ed|es|ing|ation)$)(?<=[lnrt]is)|noea$|re$(?<=[bt]re)"
)
_AMERICAN = {"aem": "em", "oe": "e", "our": "or", "is": "iz", "noea": "nea", "re": "er"}


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
        place: of an anatomy, whether a finding can lie in it ("lung volume" can only be normal or not).
        holds: of an anatomy, the severest finding that stays within it (no large effusion in a costophrenic angle).
        collective: of an anatomy of many parts, which doesn't say where a finding is ("a fracture").
        includes: anatomy that is called normal along with this one.
        whole: of a finding of a whole organ, which has no place or side in it.
        places: where a pathology may be beside its implied anatomy and the parts of that.
        appears_as: pathologies that nobody who reports this one would deny.
        affects: anatomy beside its own that isn't normal with it -> the least severity from which it isn't.
        excludes: pathologies that can't be there as well.
        graded: whether a severity says something of it.
        anywhere: it counts in organs that aren't the chest's, too ("splenic granuloma").
        passes: whether it is over where it is called previous or old, not merely known ("old tuberculosis").
        refined: anatomy -> what the pathology is called there.
        listed: whether the ontology has it; an unlisted finding was known by the ending of its word.
    """

    name: str
    kind: Kind
    anatomy: str | None = None
    parent: str | None = None
    side: str | None = None
    paired: bool = True
    place: bool = True
    holds: Severity = "severe"
    collective: bool = False
    includes: Sequence[str] = field(default=(), hash=False)
    whole: bool = False
    places: Sequence[str] = field(default=(), hash=False)
    appears_as: Sequence[str] = field(default=(), hash=False)
    affects: Mapping[str, Severity] = field(default_factory=dict, hash=False)
    excludes: Sequence[str] = field(default=(), hash=False)
    graded: bool = True
    anywhere: bool = False
    passes: bool = False
    refined: Mapping[str, str] = field(default_factory=dict, hash=False)
    listed: bool = True


_LONG = 8
"""Letters of a finding that may be mistyped."""
_NO_MISTAKES = frozenset(
    [
        "aspirating", "carrying", "charring", "condemnation", "confusion", "crowning", "hemithorax", "infiltrating",
        "laziness", "osteogenic", "regenerated", "regenerative", "slurring", "sparring", "spurning", "spurting",
        "starring",
    ]
)  # fmt: skip
"""Words of English that are a letter away from a finding."""
_GRAMMAR = re.compile(r"\(\?<?!.*?\)|\\w|\b(?:is|are|appear|remain|again|of|the|both|and|in|a)\b")
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
    """Terms by name, the trie of all their wordings, the patterns of findings said with words between, the words that
    make a finding a kind of it ("patchy"), and organs whose findings aren't the chest's ("thyroid"),
    all words of wordings, and the long
    ones with a letter left out, by which one that was mistyped is told."""

    terms: dict[str, Term]
    trie: Node
    patterns: Patterns
    descriptors: frozenset[tuple[str, ...]]
    elsewhere: frozenset[tuple[str, ...]]
    words: frozenset[str]
    misspelt: Mapping[str, str]

    def lineage(self, name: str | None) -> tuple[str, ...]:
        """Returns a term's name and those of its ever broader parents; the name alone where it isn't listed."""
        names: list[str] = []
        while name is not None:
            names.append(name)
            term = self.terms.get(name)
            name = term.parent if term is not None else None
        return tuple(names)

    def usual_place(self, name: str) -> str | None:
        """Returns where a pathology is when nothing says it; None where it may be anywhere, or isn't listed."""
        term = self.terms.get(name)
        return term.anatomy if term is not None else None

    def room_for(self, name: str, place: str | None, severity: str | None) -> str | None:
        """Returns where a pathology of a severity is when it is seen at a place: its usual one, if it is too large."""
        if place is None or severity is None or place not in self.terms:
            return place
        fits = SEVERITIES.index(severity) <= SEVERITIES.index(self.terms[place].holds)
        return place if fits else self.usual_place(name) or place

    def shows(self, name: str) -> frozenset[str]:
        """Returns the pathologies that can't be denied beside this one: its lineage, and what each of it appears as."""
        shown = set(self.lineage(name))
        for term in self._listed(name):
            for other in term.appears_as:
                shown.update(self.lineage(other))
        return frozenset(shown)

    def affected(self, name: str, place: str | None, severity: str | None) -> frozenset[str]:
        """Returns the anatomy that can't be called normal beside a pathology: where it lies, and what it affects.

        Args:
            name: of the pathology.
            place: where it is said to be, or None.
            severity: as it is said, or None.
        """
        degree = SEVERITIES.index(severity or _UNSAID)
        anatomy = set(self.lineage(self.usual_place(name) if place is None else place))
        for term in self._listed(name):
            anatomy.update(other for other, least in term.affects.items() if SEVERITIES.index(least) <= degree)
        return frozenset(anatomy)

    def called_normal(self, anatomy: str) -> frozenset[str]:
        """Returns all the anatomy that is called normal when this one is."""
        term = self.terms.get(anatomy)
        return frozenset([anatomy, *(term.includes if term is not None else ())])

    def excludes(self, first: str, second: str) -> bool:
        """Returns whether two pathologies can't be there together: opposites, or one a kind of the other."""
        if first in self.lineage(second) or second in self.lineage(first):
            return True
        return any(
            other in self.lineage(there)
            for name, there in ((first, second), (second, first))
            for term in self._listed(name)
            for other in term.excludes
        )

    def _listed(self, name: str) -> Iterator[Term]:
        return (self.terms[each] for each in self.lineage(name) if each in self.terms)

    def may_be_in(self, term: Term, place: str) -> bool:
        """Returns whether a pathology can lie in a place: in any, when it implies none."""
        where = self.terms.get(place)
        if where is not None and not where.place:
            return False
        if term.anatomy is None or place in term.places:
            return True
        return self.lineage(place)[-1] == self.lineage(term.anatomy)[-1]

    def spelt(self, word: str) -> str:
        """Returns the word of a wording that a folded word is, if a letter is wrong, missing, doubled or two have
        changed places, or a scanner saw "rn" for "m"; else the word itself. Short words are left alone."""
        if len(word) < _LONG or word in self.words or word in _NO_MISTAKES:
            return word
        if "rn" in word and (read := word.replace("rn", "m")) in self.words:
            return read
        if word in self.misspelt:
            return self.misspelt[word]
        for place in range(len(word)):
            left = word[:place] + word[place + 1 :]
            if left in self.misspelt and abs(len(self.misspelt[left]) - len(word)) <= 1:
                return self.misspelt[left]
        return word

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
    word = _BRITISH.sub(lambda found: _AMERICAN[found[0]], word.lower())
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
    words, findings = set[str](), set[str]()
    trie = Node()
    patterns = []
    tree = yaml.safe_load(text)
    descriptors, elsewhere = (
        frozenset(tuple(fold(w) for w in phrase.split()) for phrase in tree.pop(key))
        for key in ("descriptors", "elsewhere")
    )
    for kind, entries in tree.items():
        for name, entry in entries.items():
            term = Term(
                name, kind, **{key: value for key, value in entry.items() if key not in {"synonyms", "patterns"}}
            )
            terms[name] = term
            for wording in (name, *entry["synonyms"]):
                node = trie
                written = [fold(word) for word in re.findall(r"[a-z0-9]+", wording.lower())]
                words.update(written)
                if kind == "pathology" and len(written) == 1:
                    findings.update(written)
                for word in written:
                    node = node.setdefault(word, Node())
                if node.term is not None and node.term.name != name:
                    raise ValueError(f"ontology.yaml: {wording!r} belongs to {node.term.name!r} and {name!r}")
                node.term = term
            patterns += [(pattern, term) for pattern in entry.get("patterns", ())]
    for term in terms.values():
        named = {term.parent, term.anatomy, *term.places, *term.appears_as, *term.affects, *term.excludes}
        unknown = (named | set(term.includes)) - {None} - terms.keys()
        if unknown:
            raise ValueError(f"ontology.yaml: {term.name!r} names {unknown}, which it doesn't list")
    return Ontology(terms, trie, Patterns(patterns), descriptors, elsewhere, frozenset(words), _misspelt(findings))


def _misspelt(words: Iterable[str]) -> dict[str, str]:
    """Returns long words by what is left of them without one letter; what two of them share tells neither."""
    found: dict[str, str] = {}
    shared = set()
    for word in sorted(word for word in words if len(word) >= _LONG):
        for left in {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}:
            if found.setdefault(left, word) != word:
                shared.add(left)
    return {left: word for left, word in found.items() if left not in shared}
