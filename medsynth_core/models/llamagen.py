"""LlamaGen's image tokenizers VQ-16 and VQ-8 (P. Sun et al., *Autoregressive model beats diffusion*, arXiv:2406.06525).

Their files are pickles (``vq_ds16_c2i.pt``), which nothing here opens; a safetensors file is made of one where the file
is trusted:

    import torch
    from safetensors.torch import save_file
    saved = torch.load("vq_ds16_c2i.pt", map_location="cpu", weights_only=True)
    state = saved.get("ema") or saved["model"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, "vq_ds16_c2i.safetensors")

The network is the one that Janus took over, so transformers' JanusVQVAE has it; only its parts are called otherwise.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from medsynth_core.errors import InputError

_JANUS = (
    (r"^encoder\.conv_blocks\.", "encoder.down."),
    (r"^decoder\.conv_blocks\.", "decoder.up."),
    (r"\.res\.", ".block."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
)
"""What transformers calls a part, by what LlamaGen does."""
_STATISTICS = "quantize.codebook_used"


def read_config(path: Path, where: str) -> dict[str, Any]:
    """Returns the config of the JanusVQVAE that a safetensors file holds under LlamaGen's names, as its shapes tell it;
    no weights are read.

    Args:
        where: names it in a message: the parameter and its value, as a rule.

    Raises:
        InputError: the file is no safetensors file, or of another network.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            shapes = {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(
            f"{where}: not a safetensors file ({error}); LlamaGen's own files are pickles, which aren't opened: "
            f"help({__name__}) says how to convert one"
        ) from error

    def widths(block: str) -> list[int]:
        first, *others = (f"{block.format(place)}.conv1.weight" for place in range(len(shapes)))
        return [shapes[first][0], *(shapes[name][0] for name in takewhile(shapes.__contains__, others))]

    try:
        width, channels = shapes["encoder.conv_in.weight"][:2]
        embed_dim, latent_channels = shapes["quant_conv.weight"][:2]
        return {
            "base_channels": width,
            "in_channels": channels,
            "out_channels": shapes["decoder.conv_out.weight"][0],
            "channel_multiplier": [each // width for each in widths("encoder.conv_blocks.{}.res.0")],
            "num_res_blocks": len(widths("encoder.conv_blocks.0.res.{}")),
            "latent_channels": latent_channels,
            "embed_dim": embed_dim,
            "num_embeddings": shapes["quantize.embedding.weight"][0],
        }
    except KeyError as error:
        raise InputError(
            f"{where}: not LlamaGen's image tokenizer (it has no {error}); of another one name the folder"
        ) from error


def to_janus(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns LlamaGen's tensors by the names that transformers' JanusVQVAE has for them."""
    renamed = {}
    for name, tensor in state.items():
        for theirs, janus in _JANUS:
            name = re.sub(theirs, janus, name)
        renamed[name] = tensor
    renamed.pop(_STATISTICS, None)
    return renamed
