import os
from types import SimpleNamespace

import pytest
import torch

from flows.runner import shards_in_flight
from medsynth_core.synthesis.settings import RunnerConfig
from tasks.shards import take_share, visible_gpus


def test_worker_processes_take_turns_on_the_gpus_they_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    assert shards_in_flight(RunnerConfig(kind="processes", in_flight=1)) == 2
    assert shards_in_flight(RunnerConfig(kind="processes", in_flight=1, processes=4)) == 4
    taken = []
    for number in (7, 8, 9):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
        monkeypatch.setattr("multiprocessing.current_process", lambda n=number: SimpleNamespace(name=f"Spawn-{n}"))
        take_share(2, ["3", "5"])
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert taken == ["5", "3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
    take_share(2, [])
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    torch.set_num_threads(threads)


def test_threads_have_as_many_shards_in_flight_as_named() -> None:
    assert shards_in_flight(RunnerConfig(in_flight=3)) == 3
