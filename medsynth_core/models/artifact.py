"""Saved models: a folder of safetensors, a config and a card, named by the digest of the first two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.hashing import DigestCache

_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
_CARD = "card.json"
MODEL_NAMES = ("vqgan", "alignment", "llm")
"""What synthesis needs, in this order."""
_ABOUT = frozenset([_CARD, "metrics.jsonl", "words.png", "renderings.png", "samples.png"])


def save_weights(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes ``state`` (any dtype, moved to the CPU) and its JSON-able ``config`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def load_weights(folder: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the config of a saved model.

    Raises:
        InputError: the folder isn't a saved model of that kind.
    """
    what = f"{kind} model"
    config = load_config(folder, what)
    with _reading(folder, what):
        state = load_file(folder / _WEIGHTS)
    if config.get("kind") != kind:
        raise InputError(f"{folder}: expected a {kind} model, found {config.get('kind')!r}")
    return state, config


def load_config(folder: Path, what: str) -> dict[str, Any]:
    """Returns the config of a saved model, of any kind.

    Args:
        what: is expected there, for the messages.

    Raises:
        InputError: the folder isn't a saved model.
    """
    with _reading(folder, what):
        config: dict[str, Any] = json.loads((folder / _CONFIG).read_text("utf-8"))
    return config


@contextmanager
def _reading(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no {what} there ({Path(error.filename).name} is missing); "
            f"train it, or set models.path to a folder that has one"
        ) from error
    except (json.JSONDecodeError, SafetensorError) as error:
        raise InputError(f"{folder}: damaged {what} ({error}); restore or retrain it") from error


def restore(model: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Puts the tensors of a saved model in their places.

    Raises:
        InputError: they don't fit.
    """
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InputError(f"{folder}: weights don't fit config.json: {str(error).splitlines()[0]}") from error


def write_card(folder: Path, metrics: Mapping[str, float]) -> None:
    """Writes the card: final metrics of a training."""
    (folder / _CARD).write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")


def read_card(folder: Path) -> dict[str, float]:
    """Returns the metrics of a saved model.

    Raises:
        InputError: there is no card.
    """
    try:
        card: dict[str, float] = json.loads((folder / _CARD).read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no model card; train the model first") from error
    return card


def model_digest(folder: Path, digests: DigestCache | None = None) -> str:
    """Returns the hex SHA-256 over all files that determine what a model computes (not card, curve or picture).

    Args:
        digests: of files that were hashed before.

    Raises:
        InputError: no model is there.
    """
    if not any(path.suffix == ".safetensors" for path in folder.rglob("*")):
        raise InputError(f"{folder}: no model there; train it, or set models.path to a folder that has one")
    return (digests or DigestCache()).tree(folder, lambda path: path.name not in _ABOUT)


def model_digests(paths: Paths) -> dict[str, str]:
    """Returns the digests of the three models by name.

    Raises:
        InputError: one is missing.
    """
    return {name: model_digest(paths[name], paths.digests) for name in MODEL_NAMES}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Returns what a ``precision`` of params.yaml comes to on a device, float32 or bf16; ``auto`` is bf16 on a GPU that
    has it."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return precision


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the type that a ``precision`` of params.yaml names on a device."""
    return torch.bfloat16 if resolve_precision(precision, device) == "bf16" else torch.float32


def pick_device(name: str) -> torch.device:
    """Returns the device that ``device`` names; ``auto`` prefers a GPU.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, but torch sees no GPU; set device: auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
