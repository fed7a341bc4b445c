"""What readers' answers say: figures on answers that are counted by hand, and what isn't an answer."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from medsynth_core.cli.main import app
from medsynth_core.errors import InputError
from medsynth_core.evaluation.study.answers import Answers, read_answers
from medsynth_core.evaluation.study.estimates import kappas, means
from medsynth_core.evaluation.study.key import Key
from medsynth_core.evaluation.study.score import score_study
from medsynth_core.evaluation.study.scored import StudyScore
from medsynth_core.evaluation.study.tables import as_markdown, score_tables
from tests.studied import change, key_of, saved

FILMS = {
    "r1": ("real", "a"),
    "r2": ("real", "a"),
    "r3": ("real", "b"),
    "r4": ("real", "no finding"),
    "s1": ("synthetic", "a"),
    "s2": ("synthetic", "a,b"),
    "s3": ("synthetic", "no finding"),
    "s4": ("synthetic", "no finding"),
}
ALL = {
    "r1": ("real", "a", 5),
    "r2": ("real", "b", 4),
    "r3": ("real", "b", 4),
    "r4": ("synthetic", "no finding", 2),
    "s1": ("synthetic", "a", 1),
    "s2": ("synthetic", "a", 2),
    "s3": ("synthetic", "no finding", 3),
    "s4": ("real", "a", 4),
}
"""Three of four real films and three of four synthetic ones are told."""
KEY = key_of(FILMS)


def scored(*files: dict[str, Any], key: Key = KEY) -> StudyScore:
    return score_study(key, [Answers.model_validate(each) for each in files])


# figures


def test_what_a_reader_told_apart_is_counted() -> None:
    (reader,) = scored(saved("AB", ALL)).readers
    told = reader.told
    assert told.confusion == {"real": {"real": 3, "synthetic": 1}, "synthetic": {"real": 1, "synthetic": 3}}
    assert (told.accuracy.value, told.sensitivity.value, told.specificity.value) == (0.75, 0.75, 0.75)
    assert told.accuracy.n == 8
    # Wilson: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) of 6 of 8
    z2 = 1.959964**2
    middle, half = 0.75 + z2 / 16, math.sqrt(z2) * math.sqrt(0.75 * 0.25 / 8 + z2 / 256)
    assert told.accuracy.low == pytest.approx((middle - half) / (1 + z2 / 8), abs=1e-6)
    assert told.accuracy.high == pytest.approx((middle + half) / (1 + z2 / 8), abs=1e-6)
    assert reader.median_seconds == 13.5
    assert (reader.complete, reader.origin, reader.findings, reader.realism) == (8, 8, 8, 8)


def test_realism_by_what_the_films_are() -> None:
    told = scored(saved("AB", ALL)).readers[0].told
    assert told.realism["real"].value == pytest.approx(15 / 4)
    assert told.realism["synthetic"].value == pytest.approx(10 / 4)
    # of 16 pairs: 5 above all four (4); each 4 above 1, 2, 3 and like 4 (3.5, twice); 2 above 1 and like 2 (1.5)
    assert told.realism_auc.value == pytest.approx((4 + 3.5 + 3.5 + 1.5) / 16)
    assert told.realism_p == pytest.approx(mannwhitneyu([5, 4, 4, 2], [1, 2, 3, 4]).pvalue)
    assert told.realism_auc.low is not None
    assert told.realism_auc.low < told.realism_auc.value < (told.realism_auc.high or 0)


def test_findings_against_prompts_and_reports() -> None:
    agreement = scored(saved("AB", ALL)).readers[0].told.agreement
    synthetic = {each.finding: each for each in agreement["synthetic"]}
    assert [(each.labelled, each.ticked, each.both) for each in (synthetic["a"], synthetic["b"])] == [
        (2, 3, 2),
        (1, 0, 0),
    ]
    # a: 3 of 4 alike, by chance (2 * 3 + 2 * 1) / 16 = 0.5; b: ticked never, so alike as often as by chance
    assert synthetic["a"].kappa.value == pytest.approx(0.5)
    assert synthetic["b"].kappa.value == pytest.approx(0.0)
    # all: 8 decisions, 3 labelled, 3 ticked, 2 both: alike 6 of 8, by chance (9 + 25) / 64
    assert (synthetic[None].labelled, synthetic[None].ticked, synthetic[None].both) == (3, 3, 2)
    assert synthetic[None].kappa.value == pytest.approx((6 / 8 - 34 / 64) / (1 - 34 / 64))
    assert synthetic[None].kappa.n == 8
    real = {each.finding: each for each in agreement["real"]}
    assert real["no finding"].kappa.value == 1.0
    assert real["a"].kappa.value == pytest.approx(0.5)
    assert real["a"].kappa.low is None, "no interval of two films"


def test_confusions_of_findings() -> None:
    found = {(each.origin, each.labelled, each.ticked): each.n for each in scored(saved("AB", ALL)).mistaken}
    assert found == {("real", "a", "b"): 1, ("synthetic", "b", ""): 1, ("synthetic", "no finding", "a"): 1}
    added = {"r1": ("real", "a,b", 3)}
    assert [(each.labelled, each.ticked) for each in scored(saved("AB", added)).mistaken] == [("", "b")]


def test_several_readers_and_how_they_agree() -> None:
    other = ALL | {"r4": ("real", "a", 2), "s1": ("real", "a", 1)}
    score = scored(saved("AB", ALL), saved("CD", other))
    assert score.together is not None
    assert score.together.accuracy.value == pytest.approx((6 / 8 + 6 / 8) / 2)
    assert score.together.specificity.value == pytest.approx((3 / 4 + 4 / 4) / 2)
    assert score.together.confusion["real"] == {"real": 7, "synthetic": 1}
    assert score.together.realism_p is None
    ours, theirs = ([of[film][0] for film in FILMS] for of in (ALL, other))
    assert score.between["origin"].value == pytest.approx(cohen_kappa_score(ours, theirs))
    assert score.between["realism"].value == pytest.approx(1.0)
    assert score.between["findings"].n == 16


def test_pairs_of_three_readers_are_averaged() -> None:
    flipped = {film: ("synthetic" if origin == "real" else "real", f, r) for film, (origin, f, r) in ALL.items()}
    score = scored(saved("A", ALL), saved("B", ALL), saved("C", flipped))
    assert score.between["origin"].value == pytest.approx((1 - 1 - 1) / 3)


def test_an_interval_narrows_with_films_and_holds_the_figure() -> None:
    def width(n: int) -> float:
        draw = np.random.default_rng(0)
        films = {
            f"{kind[0]}{i}": (kind, "a" if i % 2 else "no finding") for kind in ("real", "synthetic") for i in range(n)
        }
        told = {
            film: (
                kind if draw.random() < 0.7 else "real",
                finding if draw.random() < 0.8 else "a",
                int(draw.integers(1, 6)),
            )
            for film, (kind, finding) in films.items()
        }
        score = scored(saved("A", told), saved("B", told), key=key_of(films)).together
        assert score is not None
        figures = [score.accuracy, score.realism_auc, score.realism["real"], score.agreement["real"][1].kappa]
        assert all(each.low < each.value < each.high for each in figures)  # type: ignore[operator]
        return score.accuracy.high - score.accuracy.low  # type: ignore[operator]

    assert width(80) < 0.7 * width(20)


def test_films_of_one_patient_count_as_one() -> None:
    """Eight films of one patient, all told, are no better proof than one: drawn together, they widen the interval."""
    films = {f"r{n}": ("real", "no finding") for n in range(16)} | {"s": ("synthetic", "no finding")}
    told = {film: ("real" if int(film[1:] or 8) < 8 else "synthetic", "no finding", 3) for film in films}
    key = key_of(films)
    alike = key.model_copy(
        update={"films": tuple(f.model_copy(update={"group": f"p{int(f.film[1:] or 99) // 8}"}) for f in key.films)}
    )
    widths = []
    for each in (key, alike):
        together = scored(saved("A", told), saved("B", told), key=each).together
        assert together is not None
        widths.append((together.specificity.high or 0) - (together.specificity.low or 0))
    assert widths[1] > 1.5 * widths[0]


def test_intervals_hold_what_they_should() -> None:
    """Of 80 studies of 50 + 50 films and two readers, whose true figures are known, an interval may miss a few."""
    n, n_studies = 50, 80
    given_real, given_synthetic = np.array([0.1, 0.2, 0.3, 0.25, 0.15]), np.array([0.2, 0.25, 0.3, 0.15, 0.1])
    auc = (
        given_synthetic[:, None]
        * given_real
        * np.array([[1, 0.5, 0][np.sign(i - j) + 1] for i in range(5) for j in range(5)]).reshape(5, 5)
    )
    labelled, right, told = 0.4, 0.85, 0.65
    ticked = labelled * right + (1 - labelled) * (1 - right)
    chance = labelled * ticked + (1 - labelled) * (1 - ticked)
    alike = told**2 + (1 - told) ** 2
    truth = {"accuracy": told, "auc": auc.sum(), "kappa": (right - chance) / (1 - chance), "readers": 2 * alike - 1}
    held = dict.fromkeys(truth, 0)
    other = {"real": "synthetic", "synthetic": "real", "a": "no finding", "no finding": "a"}
    for study in range(n_studies):
        draw = np.random.default_rng(study)
        films = {
            f"{kind[0]}{i}": (kind, "a" if draw.random() < labelled else "no finding")
            for kind in ("real", "synthetic")
            for i in range(n)
        }
        score = scored(
            *(
                saved(
                    reader,
                    {
                        film: (
                            kind if draw.random() < told else other[kind],
                            finding if draw.random() < right else other[finding],
                            1 + int(draw.choice(5, p=given_real if kind == "real" else given_synthetic)),
                        )
                        for film, (kind, finding) in films.items()
                    },
                    f"s{study}",
                )
                for reader in "AB"
            ),
            key=key_of(films).model_copy(update={"study": f"s{study}"}),
        )
        assert score.together is not None
        found = {
            "accuracy": score.together.accuracy,
            "auc": score.together.realism_auc,
            "kappa": score.together.agreement["real"][0].kappa,
            "readers": score.between["origin"],
        }
        for name, each in found.items():
            held[name] += bool(each.low <= truth[name] <= each.high)  # type: ignore[operator]
    assert min(held.values()) >= 0.86 * n_studies, held


answers_of_two = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 4, 5]), st.sampled_from([1, 2, 3, 4, 5])), min_size=2, max_size=30
)


@given(answers_of_two)
def test_kappa_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    for ours, theirs, weights, labels in (
        (a, b, "quadratic", [1, 2, 3, 4, 5]),
        ((a > 2).astype(float), (b > 2).astype(float), None, [0, 1]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where both always say the same one thing, it divides 0 by 0
            expected = cohen_kappa_score(ours, theirs, weights=weights, labels=labels)
        assert kappas(ours, theirs, np.ones((1, len(ours))))[0] == pytest.approx(expected, nan_ok=True)


def test_a_weighting_counts_films_as_often_as_it_says() -> None:
    a, b = np.array([1.0, 0, 1, np.nan]), np.array([1.0, 0, 0, 1])
    weights = np.array([[1, 1, 1, 1], [2, 1, 0, 5]])
    assert kappas(a, b, weights) == pytest.approx([cohen_kappa_score([1, 0, 1], [1, 0, 0]), 1.0])
    assert means(a, weights) == pytest.approx([2 / 3, 2 / 3])


# what says little or nothing


def test_partial_answers_count_as_such() -> None:
    part = {"r1": ("real", "", None), "s1": (None, "a", None), "s2": ("synthetic", "a,b", 1), "r2": (None, "", 4)}
    (reader,) = scored(saved("AB", part)).readers
    assert (reader.complete, reader.origin, reader.findings, reader.realism) == (1, 2, 2, 2)
    assert reader.told.accuracy.n == 2
    assert reader.told.agreement["real"][0].kappa.value is None
    assert reader.told.agreement["synthetic"][0].both == 3


@pytest.mark.parametrize(
    "answers",
    [
        {film: each for film, each in ALL.items() if film[0] == "r"},
        {film: ("real", "no finding", 3) for film in FILMS},
        {"r1": ("real", "", None)},
        {"s1": (None, "a", None)},
        {"r1": (None, "", 5)},
    ],
    ids=["no synthetic one", "always the same", "one origin", "one finding", "one realism"],
)
@pytest.mark.parametrize("readers", [1, 2])
def test_little_is_scored_without_a_figure_that_isnt_there(answers: dict[str, Any], readers: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = scored(*(saved(f"reader {n}", answers) for n in range(readers)))
        text = as_markdown(score, score_tables(score))
    json.dumps(asdict(score), allow_nan=False)
    assert "nan" not in text.lower()


def test_always_the_same_is_a_guess() -> None:
    told = scored(saved("AB", {film: ("real", "no finding", 3) for film in FILMS})).readers[0].told
    assert (told.accuracy.value, told.sensitivity.value, told.specificity.value) == (0.5, 0.0, 1.0)
    assert told.realism_auc.value == 0.5
    assert told.agreement["synthetic"][0].kappa.value == 0.0


def test_the_sentence_says_no_more_than_the_interval() -> None:
    def said(right: int) -> str:
        films = {f"{kind[0]}{n}": (kind, "a") for kind in ("real", "synthetic") for n in range(30)}
        other = {"real": "synthetic", "synthetic": "real"}
        told = {film: (kind if n < right else other[kind], "a", 3) for n, (film, (kind, _)) in enumerate(films.items())}
        return score_tables(scored(saved("A", told), key=key_of(films)))[1].note

    assert "better than by guessing" in said(50)
    assert "It isn't told from guessing; neither is an accuracy of up to 62% ruled out." in said(30)
    assert "the wrong way round" in said(5)


def test_what_readers_write_is_nothing_but_text(tmp_path: Path) -> None:
    evil = saved("[red]A|B <b>\x1b[31m", ALL)
    evil["answers"][0]["remark"] = "see | <script>\n# x \u00a0\u2028`"
    path = tmp_path / "a.json"
    path.write_text(json.dumps(evil))
    (answers,) = read_answers([path], KEY)
    assert answers.reader.name == "[red]A|B <b> [31m"
    score = score_study(KEY, [answers])
    text = as_markdown(score, score_tables(score))
    assert "<script>" not in text.replace(r"\<", "")
    assert r"| see \| \<script\> \# x   \` |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


# files


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a key and the answers of two readers."""
    KEY.save(tmp_path / "key.json")
    for name in ("AB", "CD"):
        (tmp_path / f"{name}.json").write_text(json.dumps(saved(name, ALL)))
    return tmp_path


Act = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda each: each.update(study="s2"), "answers of study 's2', the key is of 's1'"),
        (lambda each: each["answers"][0].update(film="r9"), "film 'r9' isn't in study 's1'"),
        (lambda each: each["answers"][0].update(film="r2"), "film 'r2' is answered twice"),
        (lambda each: each["answers"][0].update(findings=["c"]), "film 'r1' has 'c', which wasn't asked"),
        (lambda each: each["answers"][0].update(findings=["a", "no finding"]), "film 'r1' has no finding and others"),
        (lambda each: each["answers"][0].update(realism=6), "answers.0.realism"),
        (lambda each: each["answers"][0].update(origin="fake"), "answers.0.origin"),
        (lambda each: each["answers"][0].update(seconds=-1), "answers.0.seconds"),
        (lambda each: each["reader"].update(name=" "), "reader.name"),
        (lambda each: each["reader"].update(name="cd "), "of reader 'cd', as .*CD.json is; leave out the one"),
        (lambda each: each.update(format="other"), "no answers of a study, or damaged .format"),
        (lambda each: each.pop("answers"), "no answers of a study, or damaged .answers"),
    ],
)
def test_answers_that_cant_be_are_one_line_that_names_the_file(place: Path, act: Act, message: str) -> None:
    change(place / "AB.json", act)
    with pytest.raises(InputError, match=message) as caught:
        read_answers([place / "CD.json", place / "AB.json"], KEY)
    assert str(caught.value).startswith(f"{place / 'AB.json'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Invalid JSON"),
        (b"\x89PNG", "Invalid JSON"),
        (b"[]", "damaged"),
        (b" " * 10_000_001, "more than 10000000"),
    ],
)
def test_other_files_are_refused(place: Path, data: bytes, message: str) -> None:
    (place / "AB.json").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_answers([place / "AB.json"], KEY)
    assert "\n" not in str(caught.value)


def test_a_file_without_an_answer_is_refused_unless_another_has_one(place: Path) -> None:
    empty = saved("EF", dict.fromkeys(FILMS, (None, "", None)))
    (place / "EF.json").write_text(json.dumps(empty))
    with pytest.raises(InputError, match=r"EF\.json: no film is answered"):
        read_answers([place / "EF.json"], KEY)
    score = score_study(KEY, read_answers([place / "AB.json", place / "EF.json"], KEY))
    assert score.together is not None
    assert score.together.accuracy.value == 0.75
    assert score.between["origin"].value is None


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda place: (place / "key.json").unlink(), "can't be read"),
        (lambda place: (place / "key.json").write_text("{}"), "no key of a study"),
        (lambda place: (place / "AB.json").replace(place / "key.json"), "no key of a study"),
    ],
)
def test_a_key_that_isnt_one_is_named(place: Path, act: Callable[[Path], object], message: str) -> None:
    act(place)
    with pytest.raises(InputError, match=message) as caught:
        Key.load(place)
    assert str(caught.value).startswith(f"{place / 'key.json'}: ")


def test_the_command_prints_tables_json_and_a_report(place: Path) -> None:
    words = ["study", "score", str(place), str(place / "AB.json"), str(place / "CD.json")]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--report", str(place / "score.md")])
    assert done.exit_code == 0, done.output
    for text in ("8 of 8", "75% (", "all readers", "Agreement of readers", "Findings mistaken"):
        assert text in done.output
    report = (place / "score.md").read_text()
    assert "## Real or synthetic" in report
    assert "| AB | radiologist | 7 | 8 of 8 |" in report
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert found["readers"][0]["told"]["accuracy"]["value"] == 0.75
    assert found["study"] == "s1"
