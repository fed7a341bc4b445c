"""What images give away: figures on made-up spaces whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsynth_core.chance import independent_images, share_with_interval
from medsynth_core.errors import InputError, RiskError
from medsynth_core.judging.measured import as_report, read_measured, save_measured
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.privacy.keypatches import Patched, leakage_figure, window_distances
from medsynth_core.privacy.membership import auc, membership_figures
from medsynth_core.privacy.risk import RiskFigure, keep_limits
from medsynth_core.privacy.settings import RiskLimits
from medsynth_core.privacy.space import NEAR, Space, authentic, distance_figures, histogram

N, F = 400, 12


def cloud(seed: int, n: int = N, spread: float = 1.0) -> np.ndarray:
    return (spread * np.random.default_rng(seed).normal(size=(n, F))).astype(np.float32)


def space(synthetic: np.ndarray) -> Space:
    """Training, held-out and reference images of one distribution, exchangeable."""
    return Space("judge", "euclidean", synthetic, cloud(1), cloud(2), cloud(3))


def figures(of: Space, seed: int = 0) -> dict[str, RiskFigure]:
    return {each.metric: each for each in (*distance_figures(of, seed), *membership_figures(of, seed))}


def holds(figure: RiskFigure, value: float) -> bool:
    assert figure.low is not None
    assert figure.high is not None
    return figure.low <= value <= figure.high


def test_a_generator_that_draws_afresh_gives_nobody_away() -> None:
    seeds = range(10, 20)
    every = [figures(space(cloud(seed)), seed) for seed in seeds]
    for metric, truth in {"membership_auc": 0.5, "membership_auc_relative": 0.5, "nearer_than_held_out": NEAR}.items():
        inside = sum(holds(found[metric], truth) for found in every)
        assert inside >= len(seeds) - 2, f"{metric}: {inside} of {len(seeds)} intervals of 95 % hold the truth"
    nearer = [found["nearer_to_training"] for found in every]
    assert sum(each.real_low <= each.value <= each.real_high for each in nearer) >= len(seeds) - 2
    assert np.mean([found["membership_tpr"].value for found in every]) < 0.03
    assert np.mean([found["authenticity"].value - found["authenticity"].real for found in every]) < 0.05


def test_a_generator_that_copies_gives_everybody_away() -> None:
    found = figures(space(cloud(1) + 0.01 * cloud(20)))
    for metric in ("membership_auc", "membership_auc_relative", "membership_tpr", "membership_tpr_relative"):
        assert found[metric].value > 0.99
    assert found["nearer_to_training"].value > 0.9, "a draw of the training images holds not all that were copied"
    assert found["nearer_than_held_out"].value == 1.0
    assert found["authenticity"].value == 0.0
    assert found["distance"].value < 0.1 < found["distance"].real


def test_a_few_copies_show_in_what_is_found_at_few_false_alarms_not_in_the_auc() -> None:
    copied = np.concatenate([cloud(1)[:40], cloud(10)[40:]])
    found = figures(space(copied))
    assert found["membership_auc"].value < 0.6
    assert found["membership_tpr"].value >= 0.1


def test_a_generator_of_what_is_common_lies_near_to_everybody_and_gives_nobody_away() -> None:
    found = figures(space(cloud(10, spread=0.6)))
    assert found["nearer_than_held_out"].value > 3 * NEAR, "which alone would look like copying"
    assert found["nearer_to_training"].value <= found["nearer_to_training"].real_high
    assert holds(found["membership_auc"], 0.5)


def test_an_image_is_authentic_when_its_training_image_has_a_nearer_neighbour() -> None:
    training = np.array([[0.0], [1.0], [10.0]], dtype=np.float32)
    line = Space("judge", "euclidean", training, training, training, training)
    synthetic = np.array([[0.4], [-1.5], [9.0], [25.0]], dtype=np.float32)
    assert authentic(line, *line.nearest(synthetic, training)).tolist() == [False, True, False, True]


@pytest.mark.parametrize(("training", "authentic_ones"), [([0.0, 0.0, 10.0], [False, True]), ([0.0, 0.0], [False] * 2)])
def test_a_twin_in_the_training_images_makes_no_copy_authentic(
    training: list[float], authentic_ones: list[bool]
) -> None:
    known = np.array(training, dtype=np.float32)[:, None]
    line = Space("judge", "euclidean", known, known, known, known)
    synthetic = np.array([[0.0], [-12.0]], dtype=np.float32)
    assert authentic(line, *line.nearest(synthetic, known)).tolist() == authentic_ones


def test_figures_follow_from_the_seed_and_a_histogram_sums_to_one() -> None:
    made = space(cloud(10))
    assert figures(made, 3) == figures(made, 3)
    spread = histogram(made)
    assert len(spread["edges"]) == len(spread["synthetic"]) + 1
    assert sum(spread["synthetic"]) == pytest.approx(1, abs=1e-3)
    assert sum(spread["held_out"]) == pytest.approx(1, abs=1e-3)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_auc_is_the_share_of_pairs_in_order(members: list[int], others: list[int]) -> None:
    pairs = [(m > h) + (m == h) / 2 for m in members for h in others]
    assert auc(np.array(members, dtype=float), np.array(others, dtype=float)) == pytest.approx(np.mean(pairs))


def test_the_interval_of_a_share_is_wilsons() -> None:
    hits = np.arange(10) < 1
    share, low, high = share_with_interval(hits)
    z2 = 1.959964**2
    centre, half = (1 + z2 / 2) / (10 + z2), 1.959964 * np.sqrt(10 * 0.1 * 0.9 + z2 / 4) / (10 + z2)
    assert (share, low, high) == pytest.approx((0.1, centre - half, centre + half), abs=1e-6)


def test_the_interval_of_a_share_is_over_patients() -> None:
    hits = np.arange(60) < 12
    alone = share_with_interval(hits)
    assert share_with_interval(hits, range(60)) == pytest.approx(alone), "a patient a film: as without patients"
    assert independent_images(hits, np.repeat(np.arange(10), 6).tolist()) == pytest.approx(10, rel=0.5)
    mixed = np.random.default_rng(0).permutation(hits)
    assert independent_images(mixed, np.repeat(np.arange(30), 2).tolist()) > 40, "films that differ tell more"
    none = share_with_interval(np.zeros(60, dtype=bool), np.repeat(np.arange(6), 10).tolist())
    assert none[2] > share_with_interval(np.zeros(6, dtype=bool))[2] > share_with_interval(np.zeros(60, dtype=bool))[2]


def test_intervals_of_patients_with_many_films_hold_where_those_of_films_do_not() -> None:
    """A patient's films lie close together, so twenty of them tell hardly more than one."""
    kept: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(40):
        draw = np.random.default_rng(seed)
        people = draw.normal(size=(2, 15, F)).repeat(20, axis=1)
        members, others = (people + 0.05 * draw.normal(size=people.shape)).astype(np.float32)
        patients = np.arange(15).repeat(20).tolist()
        synthetic = draw.normal(size=(100, F)).astype(np.float32)
        for known in (True, False):
            given = (patients, patients) if known else (None, None)
            made = Space("judge", "euclidean", synthetic, members, others, cloud(seed), *given)
            kept[known].append(holds(next(membership_figures(made, seed)), 0.5))
    assert np.mean(kept[True]) > 0.85, "by patients: nearly all"
    assert np.mean(kept[False]) < 0.5, "by films: hardly any, of a generator that knows nobody"


def test_a_patient_with_many_films_counts_once_where_sets_are_mixed() -> None:
    """One held-out patient has films all over the place: film by film the rest would seem far."""
    inside = 0
    for seed in range(10):
        held_out = np.concatenate([cloud(100 + seed, 60), cloud(200 + seed, 300, spread=0.3)])
        patients = [*range(60), *[60] * 300]
        made = Space("judge", "euclidean", cloud(300 + seed), cloud(400 + seed), held_out, cloud(3), None, patients)
        found = {each.metric: each for each in distance_figures(made, seed)}["nearer_to_training"]
        inside += found.real_low <= found.value <= found.real_high
    assert inside >= 8


def test_distances_may_be_anyones() -> None:
    def manhattan(from_NF: np.ndarray, to_MF: np.ndarray) -> np.ndarray:
        return np.abs(from_NF[:, None] - to_MF[None]).sum(2)

    sides = [cloud(seed, 50) for seed in (10, 1, 2, 3)]
    named, own = (Space("judge", metric, *sides) for metric in ("manhattan", manhattan))
    for ours, theirs in zip(figures(named).values(), figures(own).values(), strict=True):
        assert ours.metric == theirs.metric
        assert (theirs.value, theirs.low, theirs.high) == pytest.approx((ours.value, ours.low, ours.high), rel=1e-4)


SIDE, STEP = 4, 4


def codebook(n: int, seed: int = 0) -> VisualCodebook:
    draw = np.random.default_rng(seed)
    none, ints = torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64)
    cells = torch.from_numpy(draw.integers(0, SIDE**2, n))
    return VisualCodebook(none, none, torch.zeros(SIDE**2, 1), cells, ints, ints, torch.arange(n), "")


def pictures(seed: int, n: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (n, SIDE * STEP, SIDE * STEP), dtype=np.uint8)


def leakage(synthetic: np.ndarray) -> RiskFigure:
    book, sources = codebook(60), dict(enumerate(pictures(1)))
    draw = np.random.default_rng(2)
    sides = [Patched(images, draw.integers(0, 60, (60, 3)).tolist()) for images in (pictures(3), pictures(4))]
    return leakage_figure(Patched(synthetic, [[i] for i in range(60)]), *sides, book, sources, 0.05, 0)


def test_an_image_that_repeats_what_surrounds_its_keypatch_leaks_it() -> None:
    figure = leakage(pictures(1))
    assert (figure.value, figure.low, figure.high) == (1.0, 1.0, 1.0)
    assert figure.real is not None
    assert figure.real < 0.15
    darker = (pictures(1) * 0.7 + 20).astype(np.uint8)
    assert leakage(darker).value == 1.0, "gain and offset don't hide it"


def test_an_image_of_its_own_leaks_no_more_than_real_ones() -> None:
    figure = leakage(pictures(9))
    assert holds(figure, 0.05)


def test_only_the_window_counts() -> None:
    book, source = codebook(1), pictures(1, 1)
    cell = int(book.cells_E[0])
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    row, column = divmod(cell, SIDE)
    mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
    mixed = np.where(mask.repeat(STEP, 0).repeat(STEP, 1), source, pictures(5, 1))
    assert window_distances(Patched(mixed, [[0]]), book, {0: source[0]})[0] == pytest.approx(0, abs=1e-6)


def test_without_keypatches_there_is_a_reason_and_no_figure() -> None:
    nothing = Patched(pictures(1), [[] for _ in range(60)])
    figure = leakage_figure(nothing, nothing, nothing, codebook(60), {}, 0.01, 0)
    assert (figure.value, figure.reason) == (None, "no keypatches to compare")


def row(metric: str, value: float | None, low: float = 0.55, **more: float) -> dict:
    about = {"space": "judge", "n": 9, "n_held_out": 9, "low": low, "high": 0.9, "real": 0.5, "real_high": None}
    return {"metric": metric, "value": value, "reason": None if value is not None else "too few", **about, **more}


def test_a_figure_above_its_limit_forbids_to_publish_and_says_what_to_do() -> None:
    limits = RiskLimits(membership_auc=0.6)
    kept = keep_limits([row("membership_auc", 0.6), row("distance", 7.0), row("near_copies", None)], limits)
    assert [each["limit"] for each in kept] == [0.6, None, limits.near_copies]
    for metric in ("membership_auc", "membership_auc_relative"):
        with pytest.raises(RiskError, match=rf"{metric} \(judge\) is 0.61 .* above privacy.limits.membership_auc=0.6"):
            keep_limits([row(metric, 0.61)], limits)
    assert keep_limits([row("membership_auc", 1.0)], RiskLimits(membership_auc=None))


def test_what_chance_explains_is_published() -> None:
    limits = RiskLimits(membership_auc=0.6, nearer_to_training=0.7)
    assert keep_limits([row("membership_auc", 0.65, low=0.49), row("nearer_to_training", 0.72, real_high=0.9)], limits)
    with pytest.raises(RiskError):
        keep_limits([row("membership_auc", 0.65, low=0.51)], limits)
    with pytest.raises(RiskError):
        keep_limits([row("nearer_to_training", 0.72, real_high=0.71)], limits)


def test_every_limit_is_of_a_figure_and_says_what_it_means() -> None:
    unlimited = {metric for metric, limit in RiskLimits() if limit is None}
    assert unlimited == {"likelihood_auc", "likelihood_tpr"}, "of a shared models folder, not of a dataset"
    limits = RiskLimits(**dict.fromkeys(unlimited, 0.6))
    for metric, _ in limits:
        with pytest.raises(RiskError, match="It means that ") as error:
            keep_limits([row(metric, 1.0)], limits)
        assert ("reject more" in str(error.value)) == (metric not in unlimited)


def test_a_report_is_of_its_shards_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `medsynth privacy` first"):
        read_measured("privacy", tmp_path, "a")
    save_measured("privacy", tmp_path, as_report(3, 5, 4, [RiskFigure("distance", "judge", 3, 4, 1 / 3)]), "a")
    found = read_measured("privacy", tmp_path, "a")
    assert (found["n_synthetic"], found["figures"][0]["value"]) == (3, 0.33333)
    assert "NaN" not in json.dumps(found)
    with pytest.raises(InputError, match="of other images"):
        read_measured("privacy", tmp_path, "b")
