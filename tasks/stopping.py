"""How a run stops: by SIGTERM, by Ctrl-C, by a cancellation in the UI, or when Prefect's server is gone.

A signal raises an exception in the main thread, Prefect's engine reports the run as crashed or cancelled, and the
process ends. Three things can come between: the exception is raised where Python drops it (in a destructor, in a
callback of C code), the main thread waits for a shard that takes minutes, or a child holds the process up. So a thread
hears of each signal by itself, sends a dropped one again, and ends what hasn't ended after ``GRACE_S``.

Publishing is one step: a stop that was asked for before it keeps it from happening, one that comes later finds it done.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

GRACE_S = 6.0
"""From a signal to the end of the process, whatever it is doing."""
_REPORT_S = 8.0
"""For telling Prefect of it, whose server may be busy: one that is gone costs as much."""
_AGAIN_S = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """The process was told to stop."""


class _Stop:
    """What is known of this process' runs and of a stop.

    Attributes:
        asked: the signal, once there was one.
        asked_at: when it came, in seconds since 1970.
        heard: set once it came, for threads that wait.
        runs: ids of this process' flow runs, the outer first.
        tag: of the flow runs that this process makes, by which one is found that hasn't begun; None: there is none.
        publishing: whether the one step that can't be taken back is under way.
        published: whether it was taken.
        telling: the thread that tells Prefect of the stop, once there is one.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.asked_at: float | None = None
        self.heard = threading.Event()
        self.runs: list[str] = []
        self.tag: str | None = None
        self.publishing = False
        self.published = False
        self.telling: threading.Thread | None = None
        self.active = False


_stop = _Stop()
_asking = threading.Lock()


@contextmanager
def stoppable() -> Iterator[None]:
    """Sees to it that the process ends within seconds when it is told to; does nothing within itself, and nothing
    outside the main thread, where no signal arrives."""
    if _stop.active or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup, hook = signal.set_wakeup_fd(writer, warn_on_full_buffer=False), sys.unraisablehook
    sys.unraisablehook = _sends_again(hook)
    _stop.active = True
    atexit.register(_last_word)
    threading.Thread(target=_hear, args=(reader,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        _stop.active = False
        sys.unraisablehook = hook
        signal.set_wakeup_fd(wakeup)
        os.close(writer)


@contextmanager
def in_work(run_id: str | None) -> Iterator[None]:
    """Notes a flow run whose state must be true in the end, however the process is ended while the block runs."""
    with stoppable():
        if run_id is None:
            yield
            return
        _stop.runs.append(str(run_id))
        yield


@contextmanager
def tagged() -> Iterator[None]:
    """Tags the flow runs that the block makes with host and process, by which they are found when it is stopped."""
    from prefect import tags

    _stop.tag = _own_tag()
    with tags(_stop.tag):
        yield


def tag_run(run_id: str | None) -> None:
    """Tags a flow run that another process made for this one, a worker's, as ``tagged`` does."""
    from prefect.client.orchestration import get_client

    if run_id is None or _stop.tag is not None:
        return
    with get_client(sync_client=True) as client:
        there = client.read_flow_run(run_id).tags  # type: ignore[arg-type]
        client.update_flow_run(run_id, tags=[*there, _own_tag()])  # type: ignore[arg-type]


def _own_tag() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def settle(why: str) -> None:
    """Sets the states of runs that Prefect takes for running or waiting, though this process won't go on.

    Two threads may ask for it, the main one and the one that ends a process which doesn't end by itself; the second
    waits for what the first began, since the process is gone once either of them returns.
    """
    if not (_stop.runs or _stop.tag):
        return
    with _asking:
        if _stop.telling is None:
            _stop.telling = threading.Thread(target=_tell, args=(why,), daemon=True)
            _stop.telling.start()
    _stop.telling.join(_REPORT_S)


def _last_word() -> None:
    """Tells Prefect the truth where its engine ended the process by itself, since that calls some stops failures."""
    if _stop.asked is not None and not _stop.published:
        settle(f"stopped by {signal.Signals(_stop.asked).name}")


def exits(number: int, *_: object) -> NoReturn:
    """Handles a signal by ending the process with the code that shells know it by."""
    raise Stopped(128 + number)


def pause(seconds: float) -> None:
    """Waits in any thread, until the process is told to stop at the longest.

    Raises:
        Stopped: it was told to, so that the thread can take back what it began elsewhere.
    """
    if _stop.heard.wait(seconds):
        raise Stopped(128 + (_stop.asked or signal.SIGTERM))


@contextmanager
def publishing(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Holds signals back while the block publishes; the run then ends as completed, since what is published stays.

    Args:
        cancelled: asks whether the run is being cancelled.

    Raises:
        Stopped: the process was told to stop before.
    """
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.signal(number, _note) for number in _SIGNALS}
    try:
        _stop.publishing = True
        if _stop.asked is not None or cancelled():
            raise Stopped(128 + (_stop.asked or signal.SIGTERM))
        yield
        _stop.published = True
        if _stop.runs and (_stop.asked is not None or cancelled()):
            from tasks.published import say_so_later

            say_so_later(_stop.runs[0], os.getpid())
    finally:
        _stop.publishing = False
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _note(number: int, _: object) -> None:
    _stop.asked = number


def _sends_again(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Returns a hook for exceptions that Python drops, which sends the signal behind such a one again."""

    def unraisable(dropped: Any) -> None:
        number = _signal_of(dropped.exc_value)
        if number is None:
            hook(dropped)
            return
        _stop.asked = number
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number)).start()

    return unraisable


def stopped(error: BaseException) -> int | None:
    """Returns the signal that stopped the process: the one that an exception was raised for, or that led to it, since
    Prefect's engine may stumble over it; None where there was none. A library written in another language may say in
    words alone what it was interrupted by: whatever fails once a signal came counts as stopped by it."""
    chain: BaseException | None = error
    while chain is not None:
        if (number := _signal_of(chain)) is not None:
            return number
        chain = chain.__context__
    if _stop.active and _stop.asked is None:
        time.sleep(_AGAIN_S)  # for the thread that hears of a signal
    return _stop.asked


def _signal_of(error: BaseException | None) -> int | None:
    """Returns the signal that an exception was raised for; None for any other exception."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, Stopped):
        return int(error.code) - 128  # type: ignore[arg-type]
    number = getattr(error, "signal", None)  # Prefect's TerminationSignal, which isn't imported for this
    return number if number in _SIGNALS else None


def _hear(reader: int) -> None:
    """Waits for a signal; ends the process if that doesn't end by itself in time."""
    while True:
        heard = os.read(reader, 1)
        if not heard:
            os.close(reader)
            return
        if heard[0] in _SIGNALS:
            break
    _stop.asked, _stop.asked_at = heard[0], time.time()
    _stop.heard.set()
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline:
        time.sleep(_AGAIN_S)
    while _stop.publishing:
        time.sleep(_AGAIN_S)
    if not _stop.published:
        end(128 + heard[0], f"stopped by {signal.Signals(heard[0]).name}")


def end(code: int, why: str, report: bool = True) -> NoReturn:
    """Ends the process and its children at once, from any thread, and tells Prefect so.

    Args:
        report: whether Prefect's server can be told.
    """
    import psutil

    sys.stderr.write(f"error: {why}; what is made is kept: run it again and it goes on\n")
    if report:
        settle(why)
    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.terminate()
    os._exit(code)


def _tell(why: str) -> None:
    with suppress(Exception):  # where the server is gone too, the next run tells it (``settle_dead``)
        _set_states(why)


def settle_dead(patience_s: float = 0.0) -> None:
    """Sets the states of runs of this machine whose process is gone without having told Prefect: killed, or its server
    was killed with it. They would stay *Running* for ever, and keep later runs of their deployment from starting.

    Args:
        patience_s: waited before that: a server that has just started answers before its automations hear.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    open_ones = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=open_ones)))
    with get_client(sync_client=True) as client:
        dead = [run.id for run in client.read_flow_runs(flow_run_filter=wanted) if _is_dead(run)]
        if dead:
            time.sleep(patience_s)
        for run_id in dead:
            client.set_flow_run_state(run_id, Crashed(message="Its process is gone."), force=True)


def _is_dead(run: Any) -> bool:
    """Returns whether a run was of a process of this machine that is gone."""
    tags = [tag.rpartition(":") for tag in run.tags]
    mine = [int(process) for host, _, process in tags if host == socket.gethostname() and process.isdigit()]
    return bool(mine) and not any(_lives(process, run) for process in mine)


def _lives(process: int, run: Any) -> bool:
    """Returns whether the process of that number is there and began before the run: numbers are used again."""
    import psutil

    try:
        began = psutil.Process(process).create_time()
    except psutil.Error:
        return False
    return bool(began <= (run.start_time or run.created).timestamp())


def _stumbled(state: Any) -> bool:
    """Returns whether a run is said to have failed since it was told to stop: Prefect's engine fails in places when a
    signal comes, and calls that a failure of the run."""
    return bool(_stop.asked_at is not None and state.is_failed() and state.timestamp.timestamp() >= _stop.asked_at)


def _set_states(why: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterTags
    from prefect.states import Cancelled, Crashed

    with get_client(sync_client=True) as client:
        made = []
        if _stop.tag is not None:
            mine = FlowRunFilter(tags=FlowRunFilterTags(all_=[_stop.tag]))
            made = [str(run.id) for run in client.read_flow_runs(flow_run_filter=mine)]
        ended = []
        for run_id in dict.fromkeys([*reversed(_stop.runs), *made]):
            state = client.read_flow_run(run_id).state  # type: ignore[arg-type]
            if state is not None and state.is_final() and not _stumbled(state):
                continue
            told = Cancelled if state is not None and state.is_cancelling() else Crashed
            client.set_flow_run_state(run_id, told(message=f"{why}."), force=True)
            ended.append(run_id)
        if not ended:
            return
        those = FlowRunFilter(id=FlowRunFilterId(any_=ended))
        for task_run in client.read_task_runs(flow_run_filter=those):
            if task_run.state is not None and not task_run.state.is_final():
                client.set_task_run_state(task_run.id, Crashed(message=f"{why}."), force=True)
