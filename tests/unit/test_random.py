import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import medsynth_core
from medsynth_core.random import seed_of, stream

CORE = Path(medsynth_core.__file__).parent
OWN_STREAMS = {"random.py", "synthesis/identity.py"}
"""The leaf itself, and the stream of an image, which is drawn by its id alone and is a contract."""

arguments = st.tuples(
    st.integers(0, 2**40), st.text(max_size=8), st.lists(st.integers(-(2**40), 2**40) | st.text(max_size=8), max_size=3)
)


def _draw(seed: int, name: str, ids: list[int | str]) -> float:
    return float(stream(seed, name, *ids).random())


@given(st.lists(arguments, min_size=2, max_size=30))
def test_equal_arguments_draw_the_same_and_others_differently(asked: list[tuple[int, str, list[int | str]]]) -> None:
    draws = {(seed, name, tuple(ids)): _draw(seed, name, ids) for seed, name, ids in asked}
    assert draws == {(seed, name, tuple(ids)): _draw(seed, name, ids) for seed, name, ids in asked}
    assert len(set(draws.values())) == len(draws)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "x", 5, 72), (0, "x", 5, 72, 0)),  # NumPy fills a list of seeds up with zeros
        ((0, "x", 1), (0, "x", "1")),
        ((0, "x", "a", "b"), (0, "x", "ab")),
        ((0, "x", "a", "b"), (0, "x", 'a", "b')),
        ((0, "x", 12), (0, "x", 1, 2)),
        ((0, "x", 1), (1, "x", 0)),
        ((0, "x"), (0, "x", "")),
        ((0, "x", -1), (0, "x", 1)),
        ((0, "xy"), (0, "x", "y")),
    ],
)
def test_near_arguments_have_streams_of_their_own(
    one: tuple[int, str, int | str], other: tuple[int, str, int | str]
) -> None:
    assert stream(*one).random() != stream(*other).random()
    assert seed_of(*one) != seed_of(*other)


def test_neighbouring_ids_draw_independently() -> None:
    """Streams of a step's samples stand side by side: neither their rows nor their columns may be correlated."""
    draws = np.stack([stream(0, "x", index).random(64) for index in range(2000)])
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.01
    assert abs(draws.mean() - 0.5) < 0.005
    assert len(np.unique(draws)) == draws.size


def test_another_process_draws_the_same() -> None:
    code = "from medsynth_core.random import *; print(repr(stream(3, 'a', 'ü', 7).random()), seed_of(3, 'a', 'ü', 7))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed == [repr(stream(3, "a", "ü", 7).random()), str(seed_of(3, "a", "ü", 7))]


@given(arguments)
def test_a_seed_suits_torch(asked: tuple[int, str, list[int | str]]) -> None:
    seed, name, ids = asked
    assert 0 <= seed_of(seed, name, *ids) < 2**63


def test_a_numpy_integer_is_refused() -> None:
    with pytest.raises(TypeError):
        stream(0, "x", np.int64(1))  # type: ignore[arg-type]


def test_all_randomness_of_the_core_has_a_name() -> None:
    unnamed = []
    for path in sorted(CORE.rglob("*.py")):
        where = path.relative_to(CORE).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            by_hand = called.endswith(("default_rng", "SeedSequence", "RandomState", "random.Generator"))
            unhashed = called.endswith("manual_seed") and not ast.unparse(node.args[0]).startswith("seed_of(")
            if (by_hand or unhashed) and where not in OWN_STREAMS:
                unnamed.append(f"{where}:{node.lineno}: {called}")
    assert not unnamed
