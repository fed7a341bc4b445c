"""A scored study as tables, for the terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medsynth_core.evaluation.study.estimates import Estimate
from medsynth_core.evaluation.study.scored import ORIGINS, Agreement, Remark, StudyScore

_TOGETHER = "all readers"
_MISTAKEN = 15
_NONE = "–"


@dataclass(frozen=True)
class ScoreTable:
    """One table; a row has a text for each heading, and the first heading's column is of words."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def score_tables(score: StudyScore) -> list[ScoreTable]:
    """Returns the tables of a study."""
    told = [(reader.reader, reader.told) for reader in score.readers]
    if score.together is not None:
        told.append((_TOGETHER, score.together))
    overall, of_all = told[-1][1], f", {_TOGETHER}" if score.together is not None else ""
    tables = [
        ScoreTable(
            f"Readers of study {score.study}, {score.n_films} films",
            ("reader", "role", "years", "complete", "origin", "findings", "realism", "seconds a film"),
            [
                (
                    each.reader,
                    each.role,
                    _NONE if each.years is None else f"{each.years:g}",
                    *(f"{n} of {score.n_films}" for n in (each.complete, each.origin, each.findings, each.realism)),
                    _NONE if each.median_seconds is None else f"{each.median_seconds:.0f}",
                )
                for each in score.readers
            ],
            "Films of which all was answered, or this; median time.",
        ),
        ScoreTable(
            "Real or synthetic",
            ("reader", "accuracy", "sensitivity", "specificity"),
            [(name, *map(_percent, (each.accuracy, each.sensitivity, each.specificity))) for name, each in told],
            f"With 95 % intervals; a guess has 50 % accuracy. Sensitivity: synthetic films recognised; specificity: "
            f"real films taken for real. {_verdict(overall.accuracy)}",
        ),
        ScoreTable(
            "Taken for",
            ("reader", *(f"{origin} taken for {other}" for origin in ORIGINS for other in ORIGINS)),
            [
                (name, *(str(each.confusion[origin][other]) for origin in ORIGINS for other in ORIGINS))
                for name, each in told
            ],
        ),
        ScoreTable(
            "Realism, 1 to 5",
            ("reader", *ORIGINS, "real above synthetic", "p"),
            [
                (
                    name,
                    *(_number(each.realism[origin]) for origin in ORIGINS),
                    _number(each.realism_auc),
                    _NONE if each.realism_p is None else f"{each.realism_p:.2g}",
                )
                for name, each in told
            ],
            "Means; how often a real film gets more than a synthetic one, 0.5 where they are alike; Mann-Whitney test.",
        ),
        *(
            ScoreTable(
                f"Findings of {origin} films against {source}{of_all}",
                ("finding", "labelled", "ticked", "both", "kappa"),
                [_agreement(each) for each in overall.agreement[origin] if each.labelled or each.ticked],
                "Cohen's kappa, without an interval where fewer than 8 films have the finding or don't have it.",
            )
            for origin, source in (("synthetic", "prompts"), ("real", "reports"))
        ),
    ]
    if score.between:
        words = {"origin": "real or synthetic", "findings": "findings", "realism": "realism (quadratic weights)"}
        rows = [(words[name], _number(each)) for name, each in score.between.items()]
        tables.append(
            ScoreTable("Agreement of readers", ("of", "kappa"), rows, "Cohen's, the mean over pairs of readers.")
        )
    if score.mistaken:
        tables.append(
            ScoreTable(
                "Findings mistaken",
                ("labelled", "ticked instead", "films", "times"),
                [
                    (each.labelled or "(as labelled)", each.ticked or "(nothing)", each.origin, str(each.n))
                    for each in score.mistaken[:_MISTAKEN]
                ],
                f"The {_MISTAKEN} commonest of {len(score.mistaken)}." if len(score.mistaken) > _MISTAKEN else "",
            )
        )
    return tables


def as_markdown(score: StudyScore, tables: Sequence[ScoreTable]) -> str:
    """Returns the tables, and readers' remarks, as a Markdown page."""
    remarks = ScoreTable("Remarks", ("remark", "reader", "film", "is"), list(map(_remark, score.remarks)))
    lines = [f"# Reader study {score.study}", "", f"Synthetic films of {_cell(score.release)}."]
    for table in [*tables, *([remarks] if score.remarks else [])]:
        lines += ["", f"## {_cell(table.title)}", "", *_rows(table)]
        if table.note:
            lines += ["", table.note]
    return "\n".join(lines) + "\n"


def _rows(table: ScoreTable) -> Iterator[str]:
    yield _row(table.headings)
    yield "|---|" + "---:|" * (len(table.headings) - 1)
    yield from map(_row, table.rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Returns text that Markdown, and HTML in it, takes for nothing else."""
    return re.sub(r"([\\`*_\[\]<>|~#&])", r"\\\1", text)


def _agreement(each: Agreement) -> tuple[str, ...]:
    return each.finding or "all", str(each.labelled), str(each.ticked), str(each.both), _number(each.kappa)


def _remark(each: Remark) -> tuple[str, ...]:
    return each.remark, each.reader, str(each.number), each.origin


def _verdict(accuracy: Estimate) -> str:
    """Returns what an accuracy means for whoever doubts it."""
    if accuracy.value is None or accuracy.low is None or accuracy.high is None:
        return ""
    if accuracy.low > 0.5:
        return "Films are told apart better than by guessing."
    if accuracy.high < 0.5:
        return "Films are told apart, the wrong way round: synthetic ones pass for real more often than real ones do."
    return f"It isn't told from guessing; neither is an accuracy of up to {accuracy.high:.0%} ruled out."


def _percent(each: Estimate) -> str:
    return _text(each, "{:.0%}")


def _number(each: Estimate) -> str:
    return _text(each, "{:.2f}")


def _text(each: Estimate, form: str) -> str:
    if each.value is None:
        return _NONE
    if each.low is None or each.high is None:
        return form.format(each.value)
    return f"{form.format(each.value)} ({form.format(each.low)} to {form.format(each.high)})"
