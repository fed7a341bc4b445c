"""Sampling of image codes: temperature, top-k, top-p, and one uniform draw an image a token.

Shapes: B images, K codes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medsynth_core.synthesis.settings import SynthesisConfig


def sample(logits_BK: Tensor, uniform_B: Tensor, settings: SynthesisConfig) -> Tensor:
    """Returns one code a row, int64 [B], by inverting the cumulative distribution at ``uniform_B`` in [0, 1).

    Temperature comes first, then top-k, then top-p (the smallest set of best codes whose mass reaches top_p); codes
    that are exactly as probable as the last one kept are kept as well.
    """
    logits_BK = logits_BK.float()
    if settings.temperature != 1.0:
        logits_BK = logits_BK / settings.temperature
    probability_BK = torch.softmax(logits_BK, -1)
    if settings.top_k or settings.top_p < 1.0:
        probability_BK = probability_BK * (probability_BK >= _least_kept(probability_BK, settings))
    cumulative_BK = probability_BK.cumsum(-1)
    total_B1 = cumulative_BK[:, -1:]
    drawn_B1 = torch.searchsorted(cumulative_BK, uniform_B[:, None] * total_B1, right=True)
    last_B1 = torch.searchsorted(cumulative_BK, total_B1.contiguous())
    return torch.minimum(drawn_B1, last_B1).squeeze(-1)


def _least_kept(probability_BK: Tensor, settings: SynthesisConfig) -> Tensor:
    """Returns the probability [B, 1] of the least probable code that top-k and top-p keep."""
    ranked_BK = _ascending(probability_BK).flip(-1)
    if settings.top_k:
        ranked_BK = ranked_BK[:, : settings.top_k]
    before_BK = ranked_BK.cumsum(-1) - ranked_BK
    kept_B1 = (before_BK < settings.top_p * ranked_BK.sum(-1, keepdim=True)).sum(-1, keepdim=True)
    return ranked_BK.gather(-1, kept_B1.clamp(min=1) - 1)


def _ascending(values_BK: Tensor) -> Tensor:
    # numpy sorts values alone, by vector instructions: a tenth of the time of torch.sort on a CPU.
    if values_BK.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(values_BK.numpy(), axis=-1))
    return torch.sort(values_BK, dim=-1).values
