"""Checkpoints of an unfinished training: tensors as safetensors, nothing pickled.

A checkpoint is one file, so it is whole or absent; the loss curve so far travels in it. Keys name parameters, not
positions, and states are gathered whole, so that it doesn't matter how many processes wrote it. Random state needs
no place, since every step draws from a stream seeded by (seed, step).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from medsynth_core.errors import ConfigError, StateError
from medsynth_core.storage.atomic import write_bytes_atomically

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SAVED_WITHOUT = {"llm": "lm."}
"""What the names of a finished model's weights lack of those in its training, by model."""


@dataclass(frozen=True)
class Progressed:
    """Finished steps, and the loss curve until then: one JSON-able row a line."""

    step: int
    curve: list[dict[str, float]]


def save_checkpoint(
    path: Path,
    key: str,
    reached: Progressed,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    *,
    writes: bool = True,
) -> None:
    """Writes the state after ``reached.step`` steps of the training that ``key`` identifies.

    Every process of a sharded training must call this; the one that ``writes`` does.

    Args:
        optimisers: by the name of the module that they train.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for entry, value in get_model_state_dict(module, options=_WHOLE).items():
            tensors[f"module/{name}/{entry}"] = value.clone()
    for name, optimiser in optimisers.items():
        # gathered on the first process; the others get nothing
        gathered = get_optimizer_state_dict(modules[name], optimiser, options=_WHOLE).get("state", {})
        for parameter, state in gathered.items():
            for entry, value in state.items():
                tensors[f"optimiser/{name}/{parameter}/{entry}"] = torch.as_tensor(value).clone()
    if writes:
        metadata = {"key": key, "step": str(reached.step), "curve": json.dumps(reached.curve)}
        write_bytes_atomically(path, save(tensors, metadata=metadata))


def load_checkpoint(
    path: Path,
    key: str,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> Progressed:
    """Restores modules and optimisers in place; zero steps when there is nothing to resume.

    A checkpoint of another key (other data or settings) is left alone.

    Raises:
        StateError: the checkpoint is damaged.
    """
    if not path.is_file():
        return Progressed(0, [])
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata()
            if metadata["key"] != key:
                return Progressed(0, [])
            curve = json.loads(metadata["curve"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise StateError(f"{path}: damaged checkpoint ({error}); delete it to train from the start") from error
    for name, module in modules.items():
        if not (weights := _below(tensors, ("module", name))):
            continue  # a finished model has no discriminator
        try:
            set_model_state_dict(module, weights, options=_WHOLE)
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise StateError(
                f"{path}: its weights don't fit models.{name} ({first}); delete it to train from the start"
            ) from error
    for name, optimiser in optimisers.items():
        state: dict[str, dict[str, Tensor]] = {}
        for entry, value in _below(tensors, ("optimiser", name)).items():
            parameter, _, leaf = entry.rpartition("/")
            state.setdefault(parameter, {})[leaf] = value
        groups: Any = get_optimizer_state_dict(modules[name], optimiser)["param_groups"]
        if state:
            set_optimizer_state_dict(modules[name], optimiser, {"state": state, "param_groups": groups}, options=_WHOLE)
    return Progressed(int(metadata["step"]), curve)


def adopt(path: Path, key: str, model: Path, steps: int) -> None:
    """Makes what an earlier training left, if anything, the beginning of the one that ``key`` identifies: its
    unfinished checkpoint, or else the weights of its finished model, without the state of their optimiser. Held-out
    losses of other data or settings are forgotten.

    Args:
        path: of the checkpoint.
        model: folder of the finished model, whose training had the same name.
        steps: that are wanted.

    Raises:
        ConfigError: as many were taken already.
        StateError: checkpoint or model is damaged.
    """
    weights = model / "model.safetensors"
    try:
        if path.is_file():
            with safe_open(path, framework="pt") as stream:
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
                metadata = stream.metadata()
            if metadata["key"] == key:
                return
            step, curve = int(metadata["step"]), json.loads(metadata["curve"])
        elif weights.is_file():
            name, prefix = model.name, _SAVED_WITHOUT.get(model.name, "")
            tensors = {f"module/{name}/{prefix}{entry}": value for entry, value in load_file(weights).items()}
            lines = (model / "metrics.jsonl").read_text("utf-8").splitlines()
            curve = [json.loads(line) for line in lines]
            step = int(max(row["step"] for row in curve)) + 1
        else:
            return
    except (SafetensorError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        raise StateError(f"{path if path.is_file() else model}: damaged ({error}); train without --resume") from error
    curve = [row for row in curve if "held_out" not in row]
    if step >= steps:
        what = path if path.is_file() else model
        raise ConfigError(
            f"models.{model.name}.train.steps={steps}, and {step} steps are behind {what}: raise it to go on from "
            f"there, or train anew without --resume"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, save(tensors, metadata={"key": key, "step": str(step), "curve": json.dumps(curve)}))


def _below(tensors: Mapping[str, Tensor], path: Sequence[str]) -> dict[str, Any]:
    prefix = "/".join(path) + "/"
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
