"""Attention of one token a sequence on a GPU, in Triton: what prefixes share is read once for several sequences, and
of what a sequence wrote itself exactly as much as there is.

Shapes: R sequences, G key-value heads, g query heads a key-value head, D head width, P tokens of all prefixes,
T tokens that a sequence may write.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_LEAST_ROWS = 16
"""Of a product in Triton."""
_LOG2_E = 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]
def _go_on(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    length,
    most,
    total,
    result,
    scale,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Goes on with a softmax over ``length`` more tokens: returns greatest score, sum of shares and sum of values."""
    token, lane = tl.arange(0, TOKENS), tl.arange(0, LANES)
    for done in range(0, length, TOKENS):
        here = done + token < length
        where = (done + token)[:, None] * WIDTH + lane[None, :]
        valid = here[:, None] & (lane < WIDTH)[None, :]
        key = tl.load(keys + where, mask=valid, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(here[None, :], score, -float("inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        share = tl.exp2(score - higher[:, None])
        faded = tl.exp2(most - higher)
        total = total * faded + tl.sum(share, 1)
        value = tl.load(values + where, mask=valid, other=0.0)
        result = result * faded[:, None] + tl.dot(share.to(value.dtype), value, input_precision="ieee")
        most = higher
    return most, total, result


@triton.jit  # type: ignore[untyped-decorator]
def _read_prefixes(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    tiles,
    count,
    read,
    weight,
    tokens,
    scale,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    LANES: tl.constexpr,
):
    group = tl.program_id(1)
    row, lane = tl.arange(0, ROWS), tl.arange(0, LANES)
    for tile in range(tl.program_id(0), tl.load(count), tl.num_programs(0)):
        start = tl.load(tiles + 4 * tile)
        length = tl.load(tiles + 4 * tile + 1)
        first = tl.load(tiles + 4 * tile + 2)
        used = row < tl.load(tiles + 4 * tile + 3) * HEADS
        head = (first + row // HEADS) * (GROUPS * HEADS) + group * HEADS + row % HEADS
        place = head[:, None] * WIDTH + lane[None, :]
        inside = used[:, None] & (lane < WIDTH)[None, :]
        query = tl.load(queries + place, mask=inside, other=0.0)
        most = tl.full([ROWS], -float("inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        result = tl.zeros([ROWS, LANES], tl.float32)
        before = (group.to(tl.int64) * tokens + start) * WIDTH
        most, total, result = _go_on(
            query, keys + before, values + before, length, most, total, result, scale, WIDTH, TOKENS, LANES
        )
        tl.store(read + place, result / total[:, None], mask=inside)
        tl.store(weight + head, most + tl.log2(total), mask=used)


@triton.jit  # type: ignore[untyped-decorator]
def _read_own(  # type: ignore[no-untyped-def]
    queries,
    new_keys,
    new_values,
    keys,
    values,
    written,
    read,
    weight,
    output,
    capacity,
    scale,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    LANES: tl.constexpr,
):
    sequence, group = tl.program_id(0), tl.program_id(1)
    row, lane = tl.arange(0, ROWS), tl.arange(0, LANES)
    own = (sequence * GROUPS + group).to(tl.int64)
    length = tl.load(written)
    inside = lane < WIDTH
    new_key = tl.load(new_keys + own * WIDTH + lane, mask=inside, other=0.0)
    new_value = tl.load(new_values + own * WIDTH + lane, mask=inside, other=0.0)
    before = own * capacity * WIDTH
    tl.store(keys + before + length * WIDTH + lane, new_key, mask=inside)
    tl.store(values + before + length * WIDTH + lane, new_value, mask=inside)
    head = own * HEADS + row
    used = row < HEADS
    place = head[:, None] * WIDTH + lane[None, :]
    filled = used[:, None] & inside[None, :]
    query = tl.load(queries + place, mask=filled, other=0.0)
    # What the prefix gave, then the new token, then what was written before it.
    most = tl.load(weight + head, mask=used, other=0.0)
    score = tl.sum(query.to(tl.float32) * new_key.to(tl.float32)[None, :], 1) * scale
    higher = tl.maximum(most, score)
    faded, share = tl.exp2(most - higher), tl.exp2(score - higher)
    total = faded + share
    result = tl.load(read + place, mask=filled, other=0.0) * faded[:, None]
    result += share[:, None] * new_value.to(tl.float32)[None, :]
    most = higher
    most, total, result = _go_on(
        query, keys + before, values + before, length, most, total, result, scale, WIDTH, TOKENS, LANES
    )
    tl.store(output + place, result / total[:, None], mask=filled)


def tile_rows(heads: int) -> int:
    """Returns the most sequences of a tile, of ``heads`` query heads a key-value head."""
    return max(1, _LEAST_ROWS // heads)


def attend(
    queries: Tensor,
    new_keys: Tensor,
    new_values: Tensor,
    prefixes: tuple[Tensor, Tensor, Tensor, Tensor],
    own: tuple[Tensor, Tensor, Tensor],
    scale: float,
) -> Tensor:
    """Writes a token in each sequence; attends to its prefix, to that token and to all written before it.

    Args:
        queries: [R, G g, 1, D], contiguous.
        new_keys, new_values: [R, G, 1, D], contiguous.
        prefixes: keys and values of all, [G, P, D]; tiles, int32 [R, 4], each its prefix's first token and length, its
            first sequence and how many it has, at most ``tile_rows``; how many tiles there are, int32 [1].
        own: keys and values that sequences wrote, [R, G, T, D], and how many, int32 [1]: where the new ones are put.
        scale: of scores.

    Returns:
        [R, 1, G g, D].
    """
    keys, values, tiles, count = prefixes
    own_keys, own_values, written = own
    sequences, groups, capacity, width = own_keys.shape
    heads = queries.shape[1] // groups
    read = queries.new_empty((sequences, groups * heads, width), dtype=torch.float32)
    weight = queries.new_empty((sequences, groups * heads), dtype=torch.float32)
    output = queries.new_empty((sequences, 1, groups * heads, width))
    scale = scale * _LOG2_E
    rows, lanes = max(_LEAST_ROWS, triton.next_power_of_2(heads)), max(16, triton.next_power_of_2(width))
    _read_prefixes[(-(-sequences // tile_rows(heads)), groups)](
        *(queries, keys, values, tiles, count, read, weight, keys.shape[1], scale),
        *(groups, heads, width, rows, 32, lanes),
        num_warps=1,
        num_stages=2,
    )
    _read_own[(sequences, groups)](
        *(queries, new_keys, new_values, own_keys, own_values, written, read, weight, output, capacity, scale),
        *(groups, heads, width, rows, 16, lanes),
        num_warps=1,
        num_stages=3,
    )
    return output
