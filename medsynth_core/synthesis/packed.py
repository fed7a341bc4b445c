"""Linear layers for inference on a CPU: weights laid out once as oneDNN wants them.

A product with few rows spends much of its time rearranging the weights; packed ones take about half the time at 32
rows (benchmarks/engine.py) and, unlike plain ones, give a row the same result whatever rows are beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class PackedLinear(nn.Module):
    """``nn.Linear`` in float32 on a CPU, for inference alone; holds [out, in] weights in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
        self._bias = None if bias is None else bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns [..., out] of [..., in]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")
        return product


def can_pack(model: nn.Module) -> bool:
    """Returns whether a model is on a CPU, in float32, with a torch that has oneDNN."""
    first = next(model.parameters())
    has_ops = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return first.device.type == "cpu" and first.dtype == torch.float32 and has_ops


def pack_linears(model: nn.Module) -> None:
    """Replaces every linear layer below ``model``; it can't be trained or saved after that."""
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, PackedLinear(child.weight, child.bias))
        elif type(child) is Conv1D:
            setattr(model, name, PackedLinear(child.weight.T, child.bias))
        else:
            pack_linears(child)
