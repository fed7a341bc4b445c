"""Linear layers for inference on a CPU: weights laid out once as oneDNN wants them.

A product with few rows spends much of its time rearranging the weights; with packed ones it takes about half the time
at 32 rows and, unlike with plain ones, gives a row the same result whatever rows are beside it (docs/decisions/0008).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from medsynth_core.models.llm import ImageLanguageModel


class PackedLinear(nn.Module):
    """``nn.Linear`` on a CPU, for inference alone; holds [out, in] weights, float32 or bf16, in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
        self._bias = None if bias is None else bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns [..., out] of [..., in]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")
        return product


def pack(model: ImageLanguageModel) -> bool:
    """Packs a model's linear layers and its head over the image codes, where that can be done. Returns whether it was;
    the model can't be trained or saved after that."""
    first = next(model.parameters())
    if first.device.type != "cpu" or not can_pack(first.dtype):
        return False
    head = model.lm.get_output_embeddings()
    codes = slice(model.layout.first_code, model.layout.first_code + model.layout.codes)
    model.image_head = PackedLinear(head.weight[codes], None if head.bias is None else head.bias[codes])
    pack_linears(model.lm.base_model)
    return True


def can_pack(dtype: torch.dtype) -> bool:
    """Returns whether this torch has oneDNN, and oneDNN multiplies that type on this CPU."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported()))


def pack_linears(module: nn.Module) -> None:
    """Replaces every linear layer below ``module``."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child.weight, child.bias))
        elif type(child) is Conv1D:
            setattr(module, name, PackedLinear(child.weight.T, child.bias))
        else:
            pack_linears(child)
