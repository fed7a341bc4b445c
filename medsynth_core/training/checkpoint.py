"""Checkpoints of an unfinished training: tensors as safetensors, nothing pickled.

A checkpoint is one file, so it is whole or absent. Optimiser state is flattened to
``<optimiser>/<parameter index>/<name>`` keys; random state needs no place, since every step draws from a
stream seeded by (seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from medsynth_core.errors import StateError
from medsynth_core.storage.atomic import write_bytes_atomically


def save_checkpoint(
    path: Path,
    key: str,
    step: int,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Writes the state after ``step`` finished steps of the training that ``key`` identifies."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for entry, value in module.state_dict().items():
            tensors[f"module/{name}/{entry}"] = value.detach().cpu().clone()
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            for entry, value in state.items():
                tensors[f"optimiser/{name}/{index}/{entry}"] = torch.as_tensor(value).detach().cpu().clone()
    write_bytes_atomically(path, save(tensors, metadata={"key": key, "step": str(step)}))


def load_checkpoint(
    path: Path,
    key: str,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> int:
    """Restores modules and optimisers in place and returns the finished steps; 0 when there is nothing to resume.

    A checkpoint of another key (other data or settings) is left alone.

    Raises:
        StateError: the checkpoint is damaged.
    """
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata()
            if metadata["key"] != key:
                return 0
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise StateError(f"{path}: damaged checkpoint ({error}); delete it to train from the start") from error
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimiser in optimisers.items():
        prefix = f"optimiser/{name}/"
        state: dict[int, dict[str, Tensor]] = {}
        for entry, value in tensors.items():
            if entry.startswith(prefix):
                index, leaf = entry.removeprefix(prefix).split("/")
                state.setdefault(int(index), {})[leaf] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(metadata["step"])
