"""Writers: sequences after their prefixes, in which one token at a time is written.

Shapes: B images, R sequences (B, or 2 B with guidance), U distinct prefixes of S tokens (left-padded), T image tokens,
L codes of a cell, C hidden width.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import DynamicCache

from medsynth_core.models.llm import ImageLanguageModel, Prefix, guided
from medsynth_core.synthesis.attention import Buffers, PrefixBlock, SharedPrefixCache
from medsynth_core.synthesis.sampling import sample
from medsynth_core.synthesis.settings import SynthesisConfig

_SHORTEST_SHARED_HEAD = 8
"""Prefixes that begin alike for fewer tokens are encoded whole."""


class Writer:
    """Sequences after their prefixes: writes one token in each at a time.

    Attributes:
        first_states_RC: from which the first token is predicted.
    """

    first_states_RC: Tensor

    def __init__(self, model: ImageLanguageModel, prefixes: Sequence[Prefix]) -> None:
        self.model = model
        lengths = [[len(prefix.ids)] for prefix in prefixes]
        self._ends_R1 = torch.tensor(lengths, device=model.device)
        at = model.layout
        self._above = torch.arange(1, at.levels, device=model.device)
        # with room for the levels above the last one, so that each code can be noted alike
        room = at.cells * (at.levels - 1)
        self._known_RTL = torch.nn.functional.pad(model.known(prefixes), (0, 0, 0, room), value=-1)
        self._token = torch.zeros(1, dtype=torch.int64, device=model.device)

    def open(self, token: int) -> None:
        """Goes on to token number ``token``, from 1."""
        self._token.fill_(token)

    def states(self, codes_R: Tensor) -> Tensor:
        """Returns the last hidden states [R, C] from which the open token is predicted, given the codes before it."""
        ids_R1 = codes_R[:, None] + self.model.layout.first_code
        places = self._token - 1 + self._above * self.model.layout.cells
        self._known_RTL[:, places, self._above] = ids_R1
        states_R1C = self.model.hidden(
            ids_R1,
            self._token.expand_as(ids_R1),
            self._known_RTL.index_select(1, self._token),
            position_ids=self._ends_R1 + self._token - 1,
            use_cache=True,
            **self._attention(),
        )
        return states_R1C[:, 0]

    def first_codes(self, uniform_B: Tensor, settings: SynthesisConfig) -> Tensor:
        """Returns the first codes, int64 [B], by a draw each."""
        return self._drawn(self.first_states_RC, uniform_B, settings)

    def codes(self, codes_B: Tensor, uniform_B: Tensor, settings: SynthesisConfig) -> Tensor:
        """Returns the codes of the open token, int64 [B], by a draw each, given those before it."""
        codes_R = codes_B.repeat(2) if settings.guidance > 1.0 else codes_B
        return self._drawn(self.states(codes_R), uniform_B, settings)

    def _drawn(self, states_RC: Tensor, uniform_B: Tensor, settings: SynthesisConfig) -> Tensor:
        logits = self.model.image_logits(states_RC)
        if settings.guidance > 1.0:
            with_text, without = logits.chunk(2)
            logits = guided(with_text, without, settings.guidance)
        return sample(logits, uniform_B, settings)

    def follow(self, codes_RT: Tensor) -> Tensor:
        """Returns the states [R, T, C] from which given codes, int64 [R, T], would be predicted."""
        found = [self.first_states_RC]
        for token in range(1, codes_RT.shape[1]):
            self.open(token)
            found.append(self.states(codes_RT[:, token - 1]))
        return torch.stack(found, 1)

    def _attention(self) -> dict[str, object]:
        raise NotImplementedError


class SharingWriter(Writer):
    """Reads each prefix where it is; sequences are stored so that those of a prefix lie together."""

    def __init__(self, model: ImageLanguageModel, prefixes: Sequence[Prefix], tokens: int, buffers: Buffers) -> None:
        arrangement = _arrange(prefixes)
        order = [row for rows in arrangement.values() for each in rows for row in each]
        super().__init__(model, [prefixes[row] for row in order])
        device = model.device
        self._order = torch.tensor(order, device=device)
        self._back = torch.empty_like(self._order)
        self._back[self._order] = torch.arange(len(order), device=device)
        blocks, states = [], []
        for count, rows in arrangement.items():
            cache, mask_US, states_UC = encode(model, [prefixes[each[0]] for each in rows])
            blocks.append(PrefixBlock.of(cache, mask_US, count))
            states.append(states_UC.repeat_interleave(count, 0))
        self.first_states_RC = torch.cat(states)[self._back]
        self._cache = SharedPrefixCache(blocks, tokens - 1, buffers)

    def open(self, token: int) -> None:
        super().open(token)
        self._cache.open_slot(token - 1)

    def states(self, codes_R: Tensor) -> Tensor:
        return super().states(codes_R[self._order])[self._back]

    def _attention(self) -> dict[str, object]:
        return {"attention_mask": self._cache.bias, "past_key_values": self._cache, "shared": self._cache}


class CopyingWriter(Writer):
    """Uses a family's own attention, cache and masks."""

    def __init__(self, model: ImageLanguageModel, prefixes: Sequence[Prefix], tokens: int) -> None:
        super().__init__(model, prefixes)
        distinct, places = distinguish(prefixes)
        self._cache, mask_US, states_UC = encode(model, distinct)
        chosen_R = torch.tensor(places, device=model.device)
        self._cache.batch_select_indices(chosen_R)
        self._mask = torch.nn.functional.pad(mask_US[chosen_R], (0, tokens - 1), value=1)
        self._prefix_tokens = mask_US.shape[1]
        self._written = 0
        self.first_states_RC = states_UC[chosen_R]

    def open(self, token: int) -> None:
        super().open(token)
        self._written = token

    def _attention(self) -> dict[str, object]:
        return {"attention_mask": self._mask[:, : self._prefix_tokens + self._written], "past_key_values": self._cache}


def distinguish(prefixes: Sequence[Prefix]) -> tuple[list[Prefix], list[int]]:
    """Returns the distinct prefixes, and the place of each prefix among them."""
    distinct = {_identity(prefix): prefix for prefix in prefixes}
    places = {each: place for place, each in enumerate(distinct)}
    return list(distinct.values()), [places[_identity(prefix)] for prefix in prefixes]


def _identity(prefix: Prefix) -> Hashable:
    return tuple(prefix.ids), tuple(prefix.cells), prefix.keypatch_codes.get(0)


def _arrange(prefixes: Sequence[Prefix]) -> dict[int, list[list[int]]]:
    """Returns the rows of each distinct prefix, by how many there are; shorter prefixes come first."""
    rows: dict[Hashable, list[int]] = {}
    for row, prefix in enumerate(prefixes):
        rows.setdefault(_identity(prefix), []).append(row)
    arrangement: dict[int, list[list[int]]] = {}
    for each in sorted(rows.values(), key=lambda each: len(prefixes[each[0]].ids)):
        arrangement.setdefault(len(each), []).append(each)
    return arrangement


def encode(model: ImageLanguageModel, prefixes: Sequence[Prefix]) -> tuple[DynamicCache, Tensor, Tensor]:
    """Returns filled cache, mask [U, S] and last states [U, C] of distinct prefixes; what all begin with is encoded
    once."""
    cache = DynamicCache(config=model.lm.config)
    head = _common_head(prefixes) if len(prefixes) > 1 else 0
    head = head if head >= _SHORTEST_SHARED_HEAD else 0
    if head:
        first = prefixes[0]
        ids, cells, mask = model.pad([Prefix(first.ids[:head], first.cells[:head])])
        _fill(model, cache, ids, cells, None, mask)
        cache.batch_repeat_interleave(len(prefixes))
    ids, cells, mask = model.pad([Prefix(prefix.ids[head:], prefix.cells[head:]) for prefix in prefixes])
    mask = torch.nn.functional.pad(mask, (head, 0), value=1)
    return cache, mask, _fill(model, cache, ids, cells, model.known(prefixes)[:, :1], mask)[:, -1]


def _common_head(prefixes: Sequence[Prefix]) -> int:
    """Returns how many tokens all prefixes begin with; at least one of each is left."""
    tokens = zip(*(zip(prefix.ids[:-1], prefix.cells[:-1], strict=True) for prefix in prefixes), strict=False)
    return sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, tokens))


def _fill(
    model: ImageLanguageModel,
    cache: DynamicCache,
    ids: Tensor,
    cells: Tensor,
    known: Tensor | None,
    mask: Tensor,
) -> Tensor:
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model.hidden(
        ids, cells, known, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
