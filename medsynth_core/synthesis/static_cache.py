"""Keys and values on a GPU at addresses that stay, and the attention over them, as one opaque operation.

A captured graph reads what lies at these addresses when it is replayed, so one capture serves every token of every
batch. To ``torch.compile`` attention is an operation of its own, like vLLM's: what it reads and writes beside its
inputs isn't traced, so that prefixes of another length compile nothing anew.

Shapes: R sequences, U prefixes, S prefix tokens (left-padded), P tokens of all prefixes, T tokens that a sequence may
write, G key-value heads, g query heads a key-value head, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, groupby
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from medsynth_core.synthesis.kernels import attend, tile_rows

_ROOM = 1.25
"""Tokens of prefixes that are made room for, over those that are there: the next batch may have more."""


class StaticCache(Cache):
    """What prefixes left, token after token without padding, and what each sequence writes.

    Args:
        like: a filled cache of the model.
        heads: g.
        sequences: R.
        capacity: T.

    Attributes:
        written: int32 [1], tokens that each sequence has written.
        bias: stands in for a mask, so that transformers makes none.

    Raises:
        ValueError: keys and values have several shapes.
    """

    def __init__(self, like: DynamicCache, heads: int, sequences: int, capacity: int) -> None:
        super().__init__(layers=[])
        shapes = {tensor.shape[1::2] for layer in like.layers for tensor in (layer.keys, layer.values)}
        if len(shapes) != 1:
            raise ValueError(f"keys and values have several shapes: {shapes}")
        [(groups, width)] = shapes
        first = like.layers[0].keys
        self._shape = (groups, width)
        self._heads = heads
        self._used = 0
        self._ends: list[tuple[int, int]] = []
        layers = range(len(like.layers))
        self._keys = [first.new_empty((groups, 0, width)) for _ in layers]
        self._values = [first.new_empty((groups, 0, width)) for _ in layers]
        self._own_keys = [first.new_empty((sequences, groups, capacity, width)) for _ in layers]
        self._own_values = [first.new_empty((sequences, groups, capacity, width)) for _ in layers]
        self._tiles = torch.zeros((sequences, 4), dtype=torch.int32, device=first.device)
        self._tile_count = torch.zeros(1, dtype=torch.int32, device=first.device)
        self.written = torch.zeros(1, dtype=torch.int32, device=first.device)
        self.bias = first.new_zeros((1, 1, 1, 1))
        self.number = next(_numbers)
        _caches[self.number] = self

    def clear(self, tokens: int) -> bool:
        """Forgets the prefixes and makes room for ``tokens`` of others. Returns whether memory had to move for it."""
        self._used, self._ends = 0, []
        if moves := tokens > self._keys[0].shape[1]:
            groups, width = self._shape
            for kept in (self._keys, self._values):
                for layer, before in enumerate(kept):
                    kept[layer] = before.new_empty((groups, int(_ROOM * tokens), width))
        return moves

    def add(self, cache: DynamicCache, mask_US: Tensor) -> None:
        """Takes over prefixes from a filled cache [U, G, S, D], without their padding."""
        lengths = mask_US.sum(1).tolist()
        kept = mask_US.flatten().nonzero()[:, 0]
        stop = self._used + len(kept)
        for layer, filled in enumerate(cache.layers):
            for target, source in ((self._keys, filled.keys), (self._values, filled.values)):
                target[layer][:, self._used : stop] = source.transpose(0, 1).flatten(1, 2).index_select(1, kept)
        for length in lengths:
            self._ends.append((self._used, length))
            self._used += length

    def share(self, place_of_row: Sequence[int]) -> None:
        """Says which prefix each sequence goes on from, by its place among those added."""
        most, row, tiles = tile_rows(self._heads), 0, []
        for place, rows in groupby(place_of_row):
            many = len(list(rows))
            tiles += [[*self._ends[place], row + at, min(most, many - at)] for at in range(0, many, most)]
            row += many
        self._tiles[: len(tiles)] = torch.tensor(tiles, dtype=torch.int32)
        self._tile_count.fill_(len(tiles))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Returns keys and values [R, G, 1, D] as they are; ``attend`` writes them."""
        return key_states, value_states

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float) -> Tensor:
        """Writes keys and values [R, G, 1, D]; returns what each sequence reads from its prefix and from all that it
        wrote, [R, 1, G g, D]."""
        return _attend(query.contiguous(), key.contiguous(), value.contiguous(), scale, layer, self.number)

    def run(self, query: Tensor, key: Tensor, value: Tensor, scale: float, layer: int) -> Tensor:
        """As ``attend``, of contiguous tensors, untraced."""
        prefixes = self._keys[layer], self._values[layer], self._tiles, self._tile_count
        own = self._own_keys[layer], self._own_values[layer], self.written
        return attend(query, key, value, prefixes, own, scale)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns the tokens that a mask would have to cover."""
        return 1


_numbers = count()
_caches: WeakValueDictionary[int, StaticCache] = WeakValueDictionary()


@torch.library.custom_op("medsynth::attend", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, layer: int, cache: int) -> Tensor:
    return _caches[cache].run(query, key, value, scale, layer)


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float, layer: int, cache: int) -> Tensor:
    return query.new_empty((query.shape[0], 1, *query.shape[1::2]))
