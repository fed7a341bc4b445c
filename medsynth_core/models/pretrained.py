"""Networks that others trained: by name or folder, of safetensors alone, and without code of theirs."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from medsynth_core.errors import InputError


def load_pretrained(kind: Any, name: str, where: str, **options: Any) -> PreTrainedModel:
    """Returns a network of transformers.

    Args:
        kind: the auto class that knows it, like ``AutoModel``.
        where: names it in a message: the parameter, as a rule.
        options: of ``from_pretrained``.

    Raises:
        InputError: the name or folder holds none, or none in safetensors: other files are pickles, and opening one runs
            whatever was put into it.
    """
    try:
        model: PreTrainedModel = kind.from_pretrained(name, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if "safetensors" in reason:
            reason = (
                f"{reason.rstrip('.')}; pickled weights (pytorch_model.bin) aren't opened: convert them to "
                f"safetensors, where you trust them, by from_pretrained and save_pretrained of transformers"
            )
        raise InputError(f"{where} {name!r} can't be loaded ({reason})") from error
    return model
