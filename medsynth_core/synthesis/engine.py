"""Decoding of image tokens: fixed length, output head cut to the image codes, per-image random streams.

Shapes: B sequences, S prefix tokens, T image tokens, K image codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from medsynth_core.config.tree import SynthesisConfig
from medsynth_core.models.llm import ImageLanguageModel, Prefix


@torch.inference_mode()
def decode_image_tokens(
    model: ImageLanguageModel,
    prefixes: Sequence[Prefix],
    unconditional: Sequence[Prefix],
    uniforms_BT: Tensor,
    settings: SynthesisConfig,
) -> Tensor:
    """Returns image codes, int64 [B, T]: exactly T for every sequence, with no stop test.

    Args:
        prefixes: what conditions each image.
        unconditional: prefixes without text, used when ``settings.guidance`` is above 1.
        uniforms_BT: one draw in [0, 1) a token, from the image's own stream.
        settings: temperature, top_k, top_p and guidance.
    """
    guided = settings.guidance > 1.0
    every = [*prefixes, *unconditional] if guided else prefixes
    ids, cells, mask = model.pad(every)
    keys = model.keys(every)
    uniforms_BT = uniforms_BT.to(model.device)
    cache = DynamicCache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    codes = []
    for step in range(uniforms_BT.shape[1]):
        states = model.hidden(
            ids,
            cells,
            keys[:, step : step + 1],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits_BK = model.image_logits(states[:, -1]).float()
        if guided:
            with_text, without = logits_BK.chunk(2)
            logits_BK = without + settings.guidance * (with_text - without)
        code_B = sample(logits_BK, uniforms_BT[:, step], settings)
        codes.append(code_B)
        following = code_B.repeat(2) if guided else code_B
        ids = following[:, None] + model.layout.first_code
        cells = torch.full_like(ids, step + 1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
    return torch.stack(codes, 1)


def sample(logits_BK: Tensor, uniform_B: Tensor, settings: SynthesisConfig) -> Tensor:
    """Returns one code a row, int64 [B], by inverting the cumulative distribution at ``uniform_B``.

    Temperature comes first, then top-k, then top-p (the smallest set of best codes whose mass reaches top_p).
    """
    scaled_BK = torch.softmax(logits_BK / settings.temperature, -1)
    probability_BK, order_BK = torch.sort(scaled_BK, dim=-1, descending=True, stable=True)
    if settings.top_k:
        probability_BK[:, settings.top_k :] = 0.0
        probability_BK = probability_BK / probability_BK.sum(-1, keepdim=True)
    before_BK = probability_BK.cumsum(-1) - probability_BK
    probability_BK = probability_BK * (before_BK < settings.top_p)
    cumulative_BK = probability_BK.cumsum(-1)
    target_B1 = uniform_B[:, None] * cumulative_BK[:, -1:]
    rank_B1 = (cumulative_BK <= target_B1).sum(-1, keepdim=True)
    last_B1 = (probability_BK > 0).sum(-1, keepdim=True) - 1
    return order_BK.gather(-1, torch.minimum(rank_B1, last_B1)).squeeze(-1)
