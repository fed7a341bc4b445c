"""Counts of terms over studies that merge exactly, batch by batch, in memory that doesn't grow with the corpus."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from medsynth_core.vocabulary.mining import Mention
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.phi import looks_private
from medsynth_core.vocabulary.vocabulary import FindingCount, PairCount, TermCount, VariantCount, Vocabulary

K = TypeVar("K", bound=Hashable)
_KINDS = ("anatomy", "pathology")
_MAX_WORDINGS = 8


class Patients(Generic[K]):
    """Which keys are seen in ``enough`` patients: a set of ids a key, full at ``enough``."""

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._ids: dict[K, set[str]] = defaultdict(set)

    def add(self, key: K, patient_ids: Iterable[str]) -> None:
        """Notes patients of a key; ids beyond ``enough`` are dropped, which no answer depends on."""
        ids = self._ids[key]
        for patient_id in patient_ids:
            if len(ids) == self._enough:
                return
            ids.add(patient_id)

    def merge(self, other: Patients[K]) -> None:
        """Adds another batch's patients."""
        for key, ids in other._ids.items():
            self.add(key, ids)

    def are_enough(self, key: K) -> bool:
        """Returns whether ``enough`` patients have the key."""
        return len(self._ids.get(key, ())) >= self._enough


@dataclass
class Counts:
    """Counts of a batch of studies; ``merge`` adds another's.

    Attributes:
        min_patients: k-anonymity: a term, wording or variant of fewer patients is never given out.
        silent: why reports say nothing that is known, with how many do: their language, or "" for another reason.
        unknown: names of given findings that aren't known, with the studies that have them.
    """

    min_patients: int
    n_studies: int = 0
    n_normal: int = 0
    studies: Counter[tuple[str, str]] = field(default_factory=Counter)
    negated: Counter[tuple[str, str]] = field(default_factory=Counter)
    wordings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    variants: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: Counter[tuple[str | None, ...]] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._terms: Patients[tuple[str, str]] = Patients(self.min_patients)
        self._wordings: Patients[tuple[str, str, str]] = Patients(self.min_patients)
        self._variants: Patients[tuple[str, str]] = Patients(self.min_patients)

    def add(self, patient_id: str, mentions: list[Mention], findings: list[dict[str, str | None]]) -> None:
        """Counts one study."""
        self.n_studies += 1
        asserted = [mention for mention in mentions if mention.asserted]
        terms = {(m.kind, m.term) for m in asserted}
        wordings = {(m.kind, m.term, m.wording) for m in asserted if m.wording}
        variants = {(m.variant, m.term) for m in asserted if m.variant is not None}
        self.studies.update(terms)
        self.negated.update({(m.kind, m.term) for m in mentions if m.negated} - terms)
        self.wordings.update(wordings)
        self.variants.update(variants)
        for term in terms:
            self._terms.add(term, (patient_id,))
        for wording in wordings:
            self._wordings.add(wording, (patient_id,))
        for variant in variants:
            self._variants.add(variant, (patient_id,))
        self.findings.update((f["pathology"], f["anatomy"], f["side"], f["severity"]) for f in findings)
        names = sorted({str(f["pathology"]) for f in findings})
        self.pairs.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
        self.sizes[len(names)] += 1
        self.n_normal += not names

    def merge(self, other: Counts) -> None:
        """Adds another batch's counts; batches merge in any order to the same vocabulary."""
        self.n_studies += other.n_studies
        self.n_normal += other.n_normal
        for name in ("studies", "negated", "wordings", "variants", "findings", "pairs", "sizes", "silent", "unknown"):
            getattr(self, name).update(getattr(other, name))
        self._terms.merge(other._terms)
        self._wordings.merge(other._wordings)
        self._variants.merge(other._variants)

    def vocabulary(self, max_terms: int) -> tuple[Vocabulary, int]:
        """Returns the vocabulary of at most ``max_terms`` terms a kind, and how many terms were too rare for it."""
        kept: dict[str, list[TermCount]] = {kind: [] for kind in _KINDS}
        too_rare = 0
        for (kind, term), n in _commonest(self.studies):
            if kind not in kept:
                continue
            if not self._may_enter(kind, term):
                too_rare += 1
            elif len(kept[kind]) < max_terms:
                kept[kind].append(self._term(kind, term, n))
        names = {kind: {count.term for count in counts} for kind, counts in kept.items()}
        findings: Counter[tuple[str | None, ...]] = Counter()
        for (pathology, anatomy, side, severity), n in self.findings.items():
            if pathology in names["pathology"]:
                findings[pathology, anatomy if anatomy in names["anatomy"] else None, side, severity] += n
        vocabulary = Vocabulary(
            n_studies=self.n_studies,
            n_normal=self.n_normal,
            min_studies=self.min_patients,
            anatomy=tuple(kept["anatomy"]),
            pathology=tuple(kept["pathology"]),
            variants=tuple(
                VariantCount(term=variant, parent=term, n_studies=n)
                for (variant, term), n in _commonest(self.variants)
                if term in names["pathology"] and self._variants.are_enough((variant, term))
            ),
            findings=tuple(
                FindingCount(pathology=p, anatomy=a, side=s, severity=v, n=n)  # type: ignore[arg-type]
                for (p, a, s, v), n in _commonest(findings)
            ),
            pairs=tuple(
                PairCount(a=a, b=b, n=n) for (a, b), n in _commonest(self.pairs) if {a, b} <= names["pathology"]
            ),
            findings_a_study={str(size): n for size, n in sorted(self.sizes.items()) if size},
        )
        return vocabulary, too_rare

    def _may_enter(self, kind: str, term: str) -> bool:
        """Returns whether a term has patients enough and is no private text.

        An unlisted one must be written in lower case by that many: names and all-capitals text never are.
        """
        listed = term in load_ontology().terms
        enough = self._terms.are_enough((kind, term))
        return enough and (listed or self._wordings.are_enough((kind, term, term))) and looks_private(term) is None

    def _term(self, kind: str, term: str, n: int) -> TermCount:
        known = load_ontology().terms.get(term)
        wordings = [
            wording
            for (other_kind, other, wording), _ in _commonest(self.wordings)
            if (other_kind, other) == (kind, term)
            and wording.lower() != term
            and self._wordings.are_enough((kind, term, wording))
        ]
        return TermCount(
            term=term,
            n_studies=n,
            n_negated=self.negated[kind, term],
            parent=known.parent if known is not None else None,
            wordings=tuple(wordings[:_MAX_WORDINGS]),
        )


def _commonest(counts: Counter[K]) -> list[tuple[K, int]]:
    """Returns keys and counts, the commonest first, ties by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
