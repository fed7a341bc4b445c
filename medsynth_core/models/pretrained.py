"""Networks that others trained: by name or folder, of safetensors alone, and without code of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsynth_core.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


def check_pretrained(setting: str, name: str, sees: bool = False) -> None:
    """Raises InputError unless ``name`` is a transformers model, by its folder or by a name that can be resolved.

    Args:
        sees: it takes images, and so needs the description of how they are prepared.
    """
    folder = Path(name)
    if folder.is_dir():
        needed = ["config.json", *(["preprocessor_config.json"] if sees else [])]
        missing = [file for file in needed if not (folder / file).is_file()]
        missing += [] if any(folder.glob("*.safetensors")) else ["*.safetensors"]
        if missing:
            raise InputError(
                f"{setting} {name!r}: the folder has no {missing[0]}; name one that `save_pretrained` wrote as "
                f"safetensors"
            )
        return
    if folder.is_absolute() or name.startswith((".", "~")):
        raise InputError(f"{setting} {name!r}: no such folder; correct it")
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{setting} {name!r} can't be loaded ({reason}); name a folder, or a model that the hub or its cache has"
        ) from error
