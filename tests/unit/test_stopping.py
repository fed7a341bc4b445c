"""What is made of a signal: who is told, and whether an error is one."""

from __future__ import annotations

import signal
import threading

import pytest

from tasks import stopping


@pytest.fixture(autouse=True)
def stop(monkeypatch: pytest.MonkeyPatch) -> stopping._Stop:
    """Returns what is known of a stop, new."""
    known = stopping._Stop()
    monkeypatch.setattr(stopping, "_stop", known)
    return known


def test_who_asks_second_waits_for_what_the_first_began(monkeypatch: pytest.MonkeyPatch, stop: stopping._Stop) -> None:
    """The process is gone once either returns."""
    begun, told, answers = threading.Event(), [], threading.Event()

    def tells(why: str) -> None:
        begun.set()
        answers.wait(30)
        told.append(why)

    monkeypatch.setattr(stopping, "_set_states", tells)
    stop.runs.append("run")
    first = threading.Thread(target=stopping.settle, args=("first",))
    first.start()
    assert begun.wait(30)
    threading.Timer(0.3, answers.set).start()
    stopping.settle("second")
    assert told == ["first"]
    first.join(30)


def test_an_error_in_which_a_library_hid_the_signal_is_a_stop(stop: stopping._Stop) -> None:
    error = ValueError('Field "retry_type": Stopped: 143')
    stop.active = True
    assert stopping.stopped(error) is None
    threading.Timer(0.01, setattr, (stop, "asked", signal.SIGTERM)).start()  # as the thread that hears of it does
    assert stopping.stopped(error) == signal.SIGTERM


def test_an_error_behind_which_a_signal_stands_is_a_stop() -> None:
    error = RuntimeError("stumbled")
    error.__context__ = KeyboardInterrupt()
    assert stopping.stopped(error) == signal.SIGINT
