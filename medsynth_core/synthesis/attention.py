"""Attention over a prefix that many sequences share and over what each has written itself.

The images of a prompt begin alike: the keys and values of their prefix are kept, and read, once a prompt instead of
once an image (as in cascade or "Hydragen" attention). What a sequence writes itself lies in a buffer of fixed
capacity, all of which is attended to, under a mask: it is contiguous, and its shape doesn't change from token to
token.

It is registered with transformers as the attention implementation ``medsynth``, so every family that takes its
attention from there decodes with it through its own forward pass.

Shapes: R sequences in storage order, U prefixes of c sequences each in a block, S prefix tokens (left-padded),
n tokens of the buffer in use, G key-value heads, g query heads a key-value head, D head width. Flat order is that
of (prefix, key-value head, sequence of the prefix), block after block, R G rows in all: a prefix's keys meet the
queries of all its sequences in one product, and nothing has to be rearranged between products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

IMPLEMENTATION = "medsynth"
GRAIN = 32
"""Tokens by which the part of a buffer in use grows."""


@dataclass(frozen=True)
class PrefixBlock:
    """Prefixes that the same number of sequences go on from.

    Attributes:
        keys: a layer each, [U G, D, S].
        values: a layer each, [U G, S, D].
        bias: [U, 1, 1, S], -inf on padding; None when nothing is padded.
        prefixes: U.
        count: c.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    bias: Tensor | None
    prefixes: int
    count: int

    @classmethod
    def of(cls, cache: DynamicCache, mask_US: Tensor, count: int) -> PrefixBlock:
        """Returns the block of a filled cache."""
        keys = [layer.keys.flatten(0, 1).transpose(1, 2).contiguous() for layer in cache.layers]
        values = [layer.values.flatten(0, 1) for layer in cache.layers]
        bias = None
        if not bool(mask_US.all()):
            bias = torch.zeros(mask_US.shape, device=mask_US.device, dtype=keys[0].dtype)
            bias = bias.masked_fill(mask_US == 0, -torch.inf)[:, None, None]
        return cls(keys, values, bias, len(mask_US), count)

    @property
    def rows(self) -> int:
        """Sequences of the block."""
        return self.prefixes * self.count


class Buffers:
    """Memory for what sequences write, kept from batch to batch: taking it anew costs as much as a token in ten.

    A buffer is contiguous, which a CPU reads up to twice as fast as a slice of a larger one, and moves when it grows.
    """

    def __init__(self) -> None:
        self._memory: list[Tensor] = []

    def reserve(self, like: Tensor, buffers: int, size: int) -> None:
        """Makes sure of memory for that many buffers of ``size`` numbers each."""
        pieces = buffers + 1
        if len(self._memory) != pieces or self._memory[0].numel() < size or self._memory[0].dtype != like.dtype:
            self._memory = []
            self._memory = [like.new_empty(size) for _ in range(pieces)]

    def release(self) -> None:
        """Gives the memory back."""
        self._memory = []

    def empty(self, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Returns buffers [R G, 0, D] of these rows and widths."""
        return [memory[:0].view(rows, 0, width) for memory, (rows, width) in zip(self._memory, shapes, strict=False)]

    def grown(self, buffers: Sequence[Tensor], length: int) -> list[Tensor]:
        """Returns the buffers [R G, n, D] with a greater n, zero beyond what they had: each moves into the memory that
        the one before it left."""
        memory = self._memory
        larger = []
        for index in reversed(range(len(buffers))):
            rows, before, width = buffers[index].shape
            new = memory[index + 1][: rows * length * width].view(rows, length, width)
            new[:, :before] = buffers[index]
            new[:, before:] = 0.0
            larger.append(new)
        self._memory = [*memory[1:], memory[0]]
        return larger[::-1]


class SharedPrefixCache(Cache):
    """Keys and values: prefix blocks that are only read, and a buffer for what each sequence writes.

    Args:
        blocks: in storage order.
        capacity: tokens that a sequence may write.
        buffers: lends the memory; one cache at a time.
    """

    def __init__(self, blocks: Sequence[PrefixBlock], capacity: int, buffers: Buffers) -> None:
        super().__init__(layers=[])
        self.blocks = blocks
        self.length = 0
        first = blocks[0]
        self._groups = len(first.keys[0]) // first.prefixes
        self._buffers = buffers
        self._slot = 0
        rows = self._groups * sum(block.rows for block in blocks)
        widths = [*(keys.shape[1] for keys in first.keys), *(values.shape[2] for values in first.values)]
        buffers.reserve(first.keys[0], len(widths), rows * capacity * max(widths))
        self._written = buffers.empty([(rows, width) for width in widths])
        self._bias = first.keys[0].new_full((1, 1, 1, capacity), -torch.inf)

    @property
    def bias(self) -> Tensor:
        """Mask over the tokens in use, [1, 1, 1, n], 0 or -inf."""
        return self._bias[..., : self.length]

    def open_slot(self, slot: int) -> None:
        """Makes room for the token number ``slot`` and lets it be attended to."""
        if slot >= self.length:
            self.length = min(self.length + GRAIN, self._bias.shape[-1])
            self._written = self._buffers.grown(self._written, self.length)
        self._slot = slot
        self._bias[..., slot] = 0.0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes keys and values [R, G, 1, D] into the open slot; returns what is in use, [R G, n, D]."""
        keys, values = self._written[layer_idx], self._written[layer_idx + len(self._written) // 2]
        new_keys, new_values = self.flat(key_states), self.flat(value_states)
        keys[:, self._slot] = new_keys[:, 0]
        values[:, self._slot] = new_values[:, 0]
        return keys, values

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float) -> Tensor:
        """Returns what each sequence reads from its prefix and from what it wrote, [R, 1, G g, D].

        Args:
            query: [R, G g, 1, D].
            key, value: what the sequences wrote, in flat order, [R G, n, D].
        """
        queries = self.flat(query) * scale
        own = torch.baddbmm(self.bias[0], queries, key.transpose(1, 2))
        start, outputs = 0, []
        for block in self.blocks:
            keys, values = block.keys[layer], block.values[layer]
            stop = start + len(keys) * block.count
            together = (len(keys), -1, queries.shape[-1])
            before = queries[start:stop].view(together) @ keys
            tokens = before.shape[-1]
            if block.bias is not None:
                before = (before.view(block.prefixes, -1, before.shape[1], tokens) + block.bias).view(before.shape)
            scores = torch.cat([before.view(stop - start, -1, tokens), own[start:stop]], -1)
            weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
            read = weights[..., :tokens].view(len(keys), -1, tokens) @ values
            read = read.view(stop - start, -1, value.shape[-1])
            outputs.append(torch.baddbmm(read, weights[..., tokens:], value[start:stop]))
            start = stop
        return self.unflat(outputs)

    def flat(self, states: Tensor) -> Tensor:
        """Returns states [R, G g, 1, D] in flat order, [R G, g, D]."""
        shape = (self._groups, states.shape[1] // self._groups, states.shape[3])
        parts = [
            part.reshape(block.prefixes, block.count, *shape).transpose(1, 2).reshape(-1, *shape[1:])
            for block, part in zip(self.blocks, states.split([block.rows for block in self.blocks]), strict=True)
        ]
        return _joined(parts)

    def unflat(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns states in storage order, [R, 1, G g, D], of each block's in flat order, [U G c, g, D]."""
        width = parts[0].shape[2]
        ordered = [
            part.view(block.prefixes, self._groups, block.count, -1, width)
            .transpose(1, 2)
            .reshape(block.rows, 1, -1, width)
            for block, part in zip(self.blocks, parts, strict=True)
        ]
        return _joined(ordered)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns the tokens in use."""
        return self.length


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Attends(Protocol):
    """A cache that attention is left to."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float) -> Tensor:
        """Returns [R, 1, G g, D]; ``key`` and ``value`` are what the cache's own ``update`` returned."""
        ...


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared: Attends | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention of one token a sequence, as transformers calls it; without ``shared`` plain SDPA.

    Args:
        query: [R, G g, 1, D].
        key, value: as the cache returned them.
        attention_mask: of plain SDPA.
        shared: where the prefixes are, and what was written.

    Returns:
        [R, 1, G g, D].
    """
    if shared is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared.attend(query, key, value, module.layer_idx, scale), None


def can_attend(lm: PreTrainedModel, tokens: int) -> bool:
    """Returns whether a family says that its attention is the plain one and can be replaced.

    Args:
        tokens: length of the longest sequence; a sliding window must be at least as wide.
    """
    config = lm.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    capped = getattr(config, "attn_logit_softcapping", None)
    return bool(getattr(lm, "_supports_attention_backend", False)) and capped is None and (window or tokens) >= tokens


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
