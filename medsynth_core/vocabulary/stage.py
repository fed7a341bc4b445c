"""The vocabulary stage: reports in, vocabularies and per-study labels out."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from medsynth_core.config import Config, Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.errors import InputError
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.vocabulary.mining import Mention, mine_report, positive_findings
from medsynth_core.vocabulary.phi import looks_private
from medsynth_core.vocabulary.vocabulary import FindingCount, PairCount, TermCount, Vocabulary

STAGE_VERSION = 1
LABELS_SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        (
            "findings",
            pa.list_(
                pa.struct(
                    [
                        ("pathology", pa.string()),
                        ("anatomy", pa.string()),
                        ("side", pa.string()),
                        ("severity", pa.string()),
                    ]
                )
            ),
        ),
    ]
)
_KINDS = ("anatomy", "pathology")


@dataclass(frozen=True)
class VocabularyReport:
    """What mining found: terms that entered, and terms that were left out for too few patients."""

    n_studies: int
    n_normal: int
    anatomy: int
    pathology: int
    too_rare: int


def run(config: Config, paths: Paths, progress: Progress) -> VocabularyReport:
    """Mines the training reports and writes ``paths.vocabulary``; labels cover every split.

    Raises:
        InputError: there is no corpus, or no pathology is common enough.
    """
    corpus = Corpus.open(paths.corpus)
    table = corpus.studies()
    counts = _Counts()
    labels = []
    for done, row in enumerate(table.to_pylist(), start=1):
        mentions = mine_report(f"{row['findings']}\n{row['impression']}")
        findings = positive_findings(mentions)
        labels.append({"study_id": row["study_id"], "findings": findings})
        if row["split"] == "train":
            counts.add(row["patient_id"], mentions, findings)
        if done % 500 == 0:
            progress(done, len(table))
    vocabulary, too_rare = counts.vocabulary(config.vocabulary.min_studies, config.vocabulary.max_terms)
    if not vocabulary.pathology:
        raise InputError(
            f"{paths.corpus}: no pathology is asserted in {config.vocabulary.min_studies} patients or more "
            f"({counts.n_studies} studies mined); lower vocabulary.min_studies or give more reports"
        )
    known = set(vocabulary.terms("pathology"))
    for label in labels:
        label["findings"] = [f for f in label["findings"] if f["pathology"] in known]
    with replace_directory(paths.vocabulary) as folder:
        vocabulary.save(folder / "vocabulary.json")
        pq.write_table(pa.Table.from_pylist(labels, schema=LABELS_SCHEMA), folder / "labels.parquet")
        with (folder / "terms.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["kind", "term", "n_studies", "n_patients", "n_negated"])
            for kind, terms in (("anatomy", vocabulary.anatomy), ("pathology", vocabulary.pathology)):
                writer.writerows([kind, t.term, t.n_studies, t.n_patients, t.n_negated] for t in terms)
    progress(len(table), len(table))
    return VocabularyReport(
        counts.n_studies, counts.n_normal, len(vocabulary.anatomy), len(vocabulary.pathology), too_rare
    )


@dataclass
class _Counts:
    """Running counts; their size depends on the terms, and on patients only through id sets a term."""

    n_studies: int = 0
    n_normal: int = 0
    studies: Counter[tuple[str, str]] = field(default_factory=Counter)
    negated: Counter[tuple[str, str]] = field(default_factory=Counter)
    patients: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    wordings: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    findings: Counter[tuple[str | None, ...]] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)

    def add(self, patient_id: str, mentions: list[Mention], findings: list[dict[str, str | None]]) -> None:
        self.n_studies += 1
        asserted = {(m.kind, m.term) for m in mentions if m.asserted}
        self.studies.update(asserted)
        self.negated.update({(m.kind, m.term) for m in mentions if m.negated} - asserted)
        for key in asserted:
            self.patients[key].add(patient_id)
        for mention in mentions:
            if mention.asserted and looks_private(mention.wording) is None:
                self.wordings[mention.kind, mention.term][mention.wording] += 1
        self.findings.update((f["pathology"], f["anatomy"], f["side"], f["severity"]) for f in findings)
        names = sorted({str(f["pathology"]) for f in findings})
        self.pairs.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
        self.sizes[len(names)] += 1
        self.n_normal += not names

    def vocabulary(self, min_studies: int, max_terms: int) -> tuple[Vocabulary, int]:
        kept: dict[str, list[TermCount]] = {kind: [] for kind in _KINDS}
        too_rare = 0
        for (kind, term), n in sorted(self.studies.items(), key=lambda item: (-item[1], item[0])):
            patients = len(self.patients[kind, term])
            if kind not in kept:
                continue
            if patients < min_studies or looks_private(term) is not None:
                too_rare += 1
            elif len(kept[kind]) < max_terms:
                said = self.wordings[kind, term].most_common(8)
                wordings = tuple(wording for wording, times in said if times >= min_studies)
                kept[kind].append(
                    TermCount(
                        term=term,
                        n_studies=n,
                        n_patients=patients,
                        n_negated=self.negated[kind, term],
                        wordings=wordings,
                    )
                )
        known = {kind: {count.term for count in counts} for kind, counts in kept.items()}
        findings: Counter[tuple[str | None, ...]] = Counter()
        for (pathology, anatomy, side, severity), n in self.findings.items():
            if pathology in known["pathology"]:
                findings[pathology, anatomy if anatomy in known["anatomy"] else None, side, severity] += n
        return Vocabulary(
            n_studies=self.n_studies,
            n_normal=self.n_normal,
            min_studies=min_studies,
            anatomy=tuple(kept["anatomy"]),
            pathology=tuple(kept["pathology"]),
            findings=tuple(
                FindingCount(pathology=p, anatomy=a, side=s, severity=v, n=n)  # type: ignore[arg-type]
                for (p, a, s, v), n in sorted(findings.items(), key=lambda item: (-item[1], str(item[0])))
            ),
            pairs=tuple(
                PairCount(a=a, b=b, n=n)
                for (a, b), n in sorted(self.pairs.items(), key=lambda item: (-item[1], item[0]))
                if {a, b} <= known["pathology"]
            ),
            findings_a_study={str(size): n for size, n in sorted(self.sizes.items()) if size},
        ), too_rare
