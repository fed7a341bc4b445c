"""How long a task's rest takes, as its progress says."""

from tasks.progress import _left


def test_the_pace_is_this_runs() -> None:
    """A training that goes on from step 260 hasn't made 260 steps in its first second."""
    assert _left(10.0, 20, 4720) == ", about 39 min left"
    assert _left(10.0, 20, 20) == ", about 10 s left"
    assert _left(5.0, 0, 100) == ""
