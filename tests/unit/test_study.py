"""What a study shows: which films, in which pictures, and nothing that tells what a film is."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medsynth_core.evaluation.study.films import Film, pick, shuffled
from medsynth_core.evaluation.study.mosaic import make_mosaic
from medsynth_core.evaluation.study.page import write_page
from tests.studied import taken_apart


def film(origin: str, name: str, findings: str, group: str = "", split: str = "test", view: str = "frontal") -> Film:
    found = frozenset(findings.split(","))
    return Film(origin, name, group or name, split, view, found, lambda: np.zeros((8, 8), dtype=np.uint8))  # type: ignore[arg-type]


def noise(n: int, side: int = 16) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8))


# which films


def test_a_real_film_with_like_findings_stands_against_each_synthetic_one() -> None:
    synthetic = [film("synthetic", f"s{n}", each) for n, each in enumerate(["a", "b", "a,b", "no finding"])]
    others = [film("real", f"x{n}", "c") for n in range(20)]
    real = [film("real", f"r{n}", each) for n, each in enumerate(["no finding", "a,b", "b", "a,c"])]
    pairs = {(ours.source, theirs.source) for ours, theirs in pick(synthetic, [*others, *real], 4, 0)}
    assert pairs == {("s0", "r3"), ("s1", "r2"), ("s2", "r1"), ("s3", "r0")}


def test_the_whole_differs_least_not_each_film_in_turn() -> None:
    """One after the other, ``a,b`` might take the ``a`` that the film with ``a`` alone needs."""
    synthetic = [film("synthetic", "both", "a,b"), film("synthetic", "one", "a")]
    real = [film("real", "a", "a"), film("real", "b", "b"), film("real", "c", "c")]
    assert {(s.source, r.source) for s, r in pick(synthetic, real, 2, 0)} == {("both", "b"), ("one", "a")}


def test_another_view_is_worse_than_any_finding() -> None:
    synthetic = [film("synthetic", "s", "a", view="lateral")]
    real = [film("real", "frontal", "a"), film("real", "lateral", "b", view="lateral")]
    assert pick(synthetic, real, 1, 0)[0][1].source == "lateral"


def test_films_of_an_earlier_split_are_taken_where_they_fit_as_well() -> None:
    synthetic = [film("synthetic", f"s{n}", "a") for n in range(3)]
    real = [film("real", f"r{split}{n}", "a", split=split) for split in ("test", "val") for n in range(3)]
    assert {theirs.split for _, theirs in pick(synthetic, real, 3, 0)} == {"test"}


@pytest.mark.parametrize("seed", range(5))
def test_one_film_a_prompt_and_a_patient_as_long_as_there_are_others(seed: int) -> None:
    synthetic = [film("synthetic", f"s{n}", "a", group=f"p{n % 4}") for n in range(16)]
    real = [film("real", f"r{n}", "a", group=f"p{n % 5}") for n in range(50)]
    for n, most in ((4, 1), (5, 2)):
        pairs = pick(synthetic, real, n, seed)
        assert max(Counter(ours.group for ours, _ in pairs).values()) == most
        assert max(Counter(theirs.group for _, theirs in pairs).values()) == 1


def test_another_seed_draws_others_and_the_same_seed_the_same() -> None:
    synthetic, real = ([film(kind, f"{n}", "a") for n in range(40)] for kind in ("synthetic", "real"))
    drawn = [[pair[0].source for pair in pick(synthetic, real, 5, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


# in which pictures


@pytest.mark.parametrize(("n", "side", "pixels"), [(1, 16, 10**6), (7, 16, 10**6), (10, 16, 900), (9, 15, 9 * 15 * 4)])
def test_films_come_out_of_the_strips_as_they_went_in(
    n: int, side: int, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medsynth_core.evaluation.study.mosaic._PIXELS_A_STRIP", pixels)
    images = noise(n, side)
    mosaic = make_mosaic(images)
    assert len(mosaic.strips) == -(-side // mosaic.height)
    np.testing.assert_array_equal(taken_apart(mosaic, n), images)


def test_all_films_get_the_smallest_side() -> None:
    mosaic = make_mosaic([*noise(3, 16), *noise(3, 24)])
    assert mosaic.side == 16
    np.testing.assert_array_equal(taken_apart(mosaic, 6)[:3], noise(3, 16))


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(png):
        size, name = struct.unpack(">I4s", png[place : place + 8])
        yield name, png[place + 8 : place + 8 + size]
        place += 12 + size


def test_strips_have_equal_headers_and_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medsynth_core.evaluation.study.mosaic._PIXELS_A_STRIP", 4 * 9 * 16)
    strips = make_mosaic(noise(9)).strips
    assert len(strips) == 4
    assert {name for strip in strips for name, _ in chunks(strip)} == {b"IHDR", b"IDAT", b"IEND"}
    assert len({dict(chunks(strip))[b"IHDR"] for strip in strips}) == 1


def test_no_file_is_of_one_film_so_that_a_smooth_one_has_no_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated films compress better than real ones: in files of their own their sizes would give them away."""
    monkeypatch.setattr("medsynth_core.evaluation.study.mosaic._PIXELS_A_STRIP", 64 * 16 * 4)
    films = [*noise(32), *np.full((32, 16, 16), 99, dtype=np.uint8)]
    mixed = [films[place] for place in np.random.default_rng(0).permutation(64)]
    for order in (films, films[::-1], mixed):
        sizes = [len(strip) for strip in make_mosaic(order).strips]
        assert max(sizes) < 1.05 * min(sizes)


# nothing that tells what a film is


def test_what_is_real_and_what_is_synthetic_makes_no_difference_to_the_page(tmp_path: Path) -> None:
    """The page is a function of pixels, tokens and the findings asked for."""
    images, tokens = noise(6), [f"{n:012x}" for n in range(6)]
    for name in "ab":
        write_page(tmp_path / name, "s", tokens, make_mosaic(images), ["no finding", "a"], drawings=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_names_of_findings_are_escaped(tmp_path: Path) -> None:
    name = 'a"><script>alert(1)</script>'
    write_page(tmp_path / "page.html", "s", ["0", "1"], make_mosaic(noise(2)), ["no finding", name], drawings=False)
    text = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in text
    assert text.count("<script") == 2


def test_every_finding_has_a_key_of_its_own_as_long_as_there_are_letters(tmp_path: Path) -> None:
    findings = ["no finding", *(f"finding {n}" for n in range(30))]
    write_page(tmp_path / "page.html", "s", ["0", "1"], make_mosaic(noise(2)), findings, drawings=False)
    letters = re.findall(r"<kbd>(\w)</kbd></label>", (tmp_path / "page.html").read_text())
    assert letters[:3] == ["R", "S", "N"]
    assert len(set(letters)) == len(letters) == 3 + 21
    assert not {"Z", "I"} & set(letters)


def test_the_order_follows_from_the_secret_alone_and_says_nothing() -> None:
    """Whoever has the code, the seed and the number of films must not get the order."""
    pairs = [(film("synthetic", f"s{n}", "a"), film("real", f"r{n}", "a")) for n in range(20)]
    orders = [[each.source for each in shuffled(pairs, 0, secret)] for secret in ("x", "x", "y")]
    assert orders[0] == orders[1] != orders[2]
    kinds = np.array(
        [[each.origin == "real" for each in shuffled(pairs, 0, f"secret {n}")] for n in range(400)], dtype=float
    )
    assert np.abs(kinds.mean(0) - 0.5).max() < 0.12, "no place is oftener a real film's"
    neighbours = np.mean(kinds[:, 1:] == kinds[:, :-1])
    assert neighbours == pytest.approx(19 / 39, abs=0.02), "nor is it told by its neighbour"
