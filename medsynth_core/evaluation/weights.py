"""Files of weights that others trained: read without running what is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medsynth_core.errors import InputError


def read_state(path: Path, what: str) -> dict[str, Tensor]:
    """Returns the tensors of a file by name: safetensors, or what ``torch.save`` wrote of a ``state_dict``, of which
    tensors alone are unpickled.

    Args:
        what: the network, for messages.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no {what} weights there")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not readable as {what} weights, which are a state_dict ({reason})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state_dict of {what}, which maps names to tensors")
    return dict(state)


def restore_others(net: nn.Module, state: Mapping[str, Tensor], path: Path, what: str, unused: tuple[str, ...]) -> None:
    """Puts tensors in their places, all of them but those whose names begin with one of ``unused``.

    Raises:
        InputError: they are another network's.
    """
    kept = {name: value for name, value in state.items() if not name.startswith(unused)} if unused else state
    try:
        net.load_state_dict(kept, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: not {what} ({reason})") from error
