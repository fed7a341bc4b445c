"""The vocabulary stage: reports in, vocabularies and per-study labels out."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pyarrow as pa
import pyarrow.parquet as pq

from medsynth_core.config import Paths
from medsynth_core.cores import processes_for
from medsynth_core.corpus.language import other_language
from medsynth_core.corpus.marks import strip_marks
from medsynth_core.corpus.normalised import Corpus, row_batches
from medsynth_core.corpus.settings import LabelRule
from medsynth_core.errors import InputError
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.vocabulary.counts import Counts
from medsynth_core.vocabulary.given import combined, unknown_names
from medsynth_core.vocabulary.mining import mine_report, positive_findings, statuses
from medsynth_core.vocabulary.normality import says_normal
from medsynth_core.vocabulary.phi import without_private
from medsynth_core.vocabulary.reading import Read, Row, some, write_reading
from medsynth_core.vocabulary.settings import VocabularyParams
from medsynth_core.vocabulary.vocabulary import Vocabulary

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
        (
            "statuses",
            pa.list_(pa.struct([("pathology", pa.string()), ("status", pa.string()), ("origin", pa.string())])),
        ),
    ]
)
"""``findings`` are those that are asserted, ``statuses`` all that are spoken of: present, uncertain or absent, by the
report or by who else assigned them. What is in neither isn't mentioned, which may be another thing than absent."""
log = logging.getLogger(__name__)

READING = "reading.html"
_FEW_SILENT = 0.03
"""Share of the reports that may say nothing."""
_EXAMPLES = 3
"""Reports that are shown where more do, by so many characters."""
_SHOWN = 100
_NAMES = 20
_ROWS_A_BATCH = 1000
STUDIES_A_PROCESS = 10_000
"""A further process is worth its start for this many studies more."""


@dataclass(frozen=True)
class VocabularyReport:
    """What mining found: reports without a finding and reports that say nothing that is known, terms that entered,
    kinds of them, and terms that were left out for too few patients."""

    n_studies: int
    n_normal: int
    n_silent: int
    anatomy: int
    pathology: int
    variants: int
    too_rare: int


def run(params: VocabularyParams, paths: Paths, progress: Progress) -> VocabularyReport:
    """Mines the training reports and writes vocabularies and labels, which cover every split, and the page that shows
    how reports are read.

    Batches stream through as many processes as there are cores and studies for; neither memory nor the result
    depends on how many.

    Raises:
        InputError: there is no corpus, or no pathology is common enough.
    """
    corpus = Corpus.open(paths["corpus"])
    total = corpus.n_studies()
    counts = Counts(params.vocabulary.min_studies)
    silent: list[Row] = []
    drawn: list[Row] = []
    with replace_directory(paths["vocabulary"]) as folder:
        mined = folder / "mined.parquet"
        with pq.ParquetWriter(mined, LABELS_SCHEMA) as writer:
            done = 0
            processes = processes_for(total, STUDIES_A_PROCESS)
            for part in _mine(corpus, params.vocabulary.min_studies, params.labels, processes):
                counts.merge(part.counts)
                writer.write_table(pa.Table.from_pylist(part.labels, schema=LABELS_SCHEMA))
                silent, drawn = some([*silent, *part.silent]), some([*drawn, *part.drawn])
                done += len(part.labels)
                progress(done, total)
        write_reading(Read(total, counts.silent, silent, drawn, corpus.n_left_out), corpus, folder / READING)
        _warn_of_silent(counts, total, silent, paths["vocabulary"] / READING)
        _warn_of_unknown(counts)
        vocabulary, too_rare = counts.vocabulary(params.vocabulary.max_terms)
        if not vocabulary.pathology:
            raise InputError(
                f"{paths['corpus']}: no pathology is asserted in {params.vocabulary.min_studies} patients or more "
                f"({counts.n_studies} studies mined); lower vocabulary.min_studies or give more reports"
            )
        vocabulary.save(folder / "vocabulary.json")
        _keep_known(mined, folder / "labels.parquet", set(vocabulary.terms("pathology")))
        mined.unlink()
        _write_terms(vocabulary, folder / "terms.csv")
    return VocabularyReport(
        counts.n_studies,
        counts.n_normal,
        counts.silent.total(),
        len(vocabulary.anatomy),
        len(vocabulary.pathology),
        len(vocabulary.variants),
        too_rare,
    )


def _warn_of_unknown(counts: Counts) -> None:
    """Says which given names are of no finding that is known."""
    if counts.unknown:
        names = ", ".join(f"{name!r} ({n})" for name, n in counts.unknown.most_common(_NAMES))
        further = f" and {len(counts.unknown) - _NAMES} more" if len(counts.unknown) > _NAMES else ""
        log.warning("vocabulary: given findings whose names aren't known, so that they count for nothing: %s%s",
                    names, further)  # fmt: skip


def _warn_of_silent(counts: Counts, total: int, some_silent: Sequence[Row], page: Path) -> None:
    """Says so where more than a few reports say nothing that is known: they would count as normal films."""
    silent = counts.silent.total()
    if silent <= _FEW_SILENT * total:
        return
    beginnings = [without_private(strip_marks(_text(row))[:_SHOWN]) for row in some_silent[:_EXAMPLES]]
    languages = ", ".join(f"{n} in {name}" for name, n in counts.silent.most_common() if name)
    log.warning(
        "vocabulary: %d of %d reports say nothing that is known%s; they count as films without a finding. They begin "
        "%s. %s shows how some are read; %s",
        silent,
        total,
        f" ({languages})" if languages else "",
        "; ".join(map(repr, beginnings)),
        page,
        "translate those of other languages, or go by given findings (corpus.labels=given)"
        if languages
        else "corpus.columns.text may name the wrong column",
    )


class Batch(NamedTuple):
    """What a batch of studies holds.

    Attributes:
        counts: of the training studies.
        labels: of all, as ``LABELS_SCHEMA``.
        silent, drawn: some of those that say nothing that is known, and some of all.
    """

    counts: Counts
    labels: list[dict[str, Any]]
    silent: list[Row]
    drawn: list[Row]


def mine_batch(rows: list[Row], min_patients: int, rule: LabelRule) -> Batch:
    """Returns what studies hold.

    Args:
        rows: study_id, patient_id, split, findings, impression, given.
        min_patients: as in ``Counts``.
        rule: what says which findings a study shows.
    """
    counts, labels, silent = Counts(min_patients), [], []
    for row in rows:
        report = _text(row)
        given = row["given"]
        mentions = combined(report, mine_report(report), given, rule)
        counts.unknown.update(unknown_names(given))
        findings = positive_findings(mentions)
        if not (mentions or given) and ((language := other_language(report)) or not says_normal(report)):
            counts.silent[language or ""] += 1
            silent.append(row)
        labels.append({"study_id": row["study_id"], "findings": findings, "statuses": statuses(mentions)})
        if row["split"] == "train":
            counts.add(row["patient_id"], mentions, findings)
    return Batch(counts, labels, some(silent), some(rows))


def _text(row: Row) -> str:
    return f"{row['findings']}\n{row['impression']}"


def _mine(corpus: Corpus, min_patients: int, rule: LabelRule, processes: int) -> Iterable[Batch]:
    """Yields what batches hold, in order, a bounded number ahead."""
    parallel = joblib.Parallel(n_jobs=processes, return_as="generator", pre_dispatch=2 * processes)
    batches = corpus.study_batches(_ROWS_A_BATCH)
    return parallel(joblib.delayed(mine_batch)(rows, min_patients, rule) for rows in batches)


def _keep_known(mined: Path, labels: Path, known: set[str]) -> None:
    """Copies labels, batch by batch, without what is not in the vocabulary."""
    with pq.ParquetWriter(labels, LABELS_SCHEMA) as writer:
        for rows in row_batches(mined, _ROWS_A_BATCH):
            for row in rows:
                for name in ("findings", "statuses"):
                    row[name] = [each for each in row[name] if each["pathology"] in known]
            writer.write_table(pa.Table.from_pylist(rows, schema=LABELS_SCHEMA))


def _write_terms(vocabulary: Vocabulary, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["kind", "term", "parent", "n_studies", "n_negated", "wordings"])
        for kind, terms in (("anatomy", vocabulary.anatomy), ("pathology", vocabulary.pathology)):
            writer.writerows([kind, t.term, t.parent, t.n_studies, t.n_negated, "; ".join(t.wordings)] for t in terms)
        writer.writerows(["variant", v.term, v.parent, v.n_studies, "", ""] for v in vocabulary.variants)
