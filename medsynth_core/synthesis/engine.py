"""The decoding engine: image tokens of a batch, as fast as the machine moves and multiplies them.

- A prefix is encoded once for all images that have it, and what all prefixes of a batch begin with once for all.
- Keys and values of prefixes are shared, those of image tokens lie in a buffer of fixed shape (``attention``).
- The output head is cut to the image codes; every image has the same number of tokens, so nothing tests for a stop
  and nothing waits for the device between two tokens.
- Sampling runs on the device, from draws that belong to each image (``identity.uniforms``).

A family whose attention can't be replaced decodes through its own, with the prefixes encoded once and copied.

Shapes: B images, R sequences (B, or 2 B with guidance), T image tokens, C hidden width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Sequence
from itertools import takewhile

import psutil
import torch
from torch import Tensor
from transformers import DynamicCache

from medsynth_core.config.tree import SynthesisConfig
from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.synthesis.attention import IMPLEMENTATION, Buffers, PrefixBlock, SharedPrefixCache, can_attend
from medsynth_core.synthesis.sampling import guided, sample

log = logging.getLogger(__name__)

_MOST_IMAGES = 1024
"""Of a batch, where memory would hold more."""
_SHARE_OF_MEMORY = {True: 0.7, False: 0.4}
"""Of what is free, by whether it is a GPU's; the models' other work and other shards need the rest."""
_STATES_A_TOKEN = 24
"""Activations of a prefix token while it is encoded, in hidden widths."""
_SHORTEST_SHARED_HEAD = 8
"""Prefixes that begin alike for fewer tokens are encoded whole."""
_PROBED_TOKENS = 3


class Engine:
    """Decodes with one model on one device; not for several threads at once.

    Args:
        model: in evaluation mode.
        compiled: compile the step with torch, on a GPU into CUDA graphs.
    """

    def __init__(self, model: ImageLanguageModel, compiled: bool = False) -> None:
        self.model = model
        self.shares_prefixes = _can_share(model)
        if not self.shares_prefixes:
            log.info("%s: its attention can't be replaced, so prefixes are copied", type(model.lm).__name__)
        self._advance = _compiled(_advance) if compiled and self.shares_prefixes else _advance
        self._buffers = _buffers(model, compiled)

    def images_that_fit(self, prefix_tokens: int, settings: SynthesisConfig) -> int:
        """Returns how many images can be decoded together in the memory that is free now, at least 1.

        A process that was given a share of the cores takes the same share of the memory.

        Args:
            prefix_tokens: of the longest prefix.
        """
        lm, device = self.model.lm, self.model.device
        cuda = device.type == "cuda"
        cores = min(1.0, torch.get_num_threads() / (os.cpu_count() or 1))
        free = torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available * cores
        encoded = prefix_tokens / settings.samples_per_prompt
        kept = self.model.layout.cells + (encoded if self.shares_prefixes else prefix_tokens)
        states = _STATES_A_TOKEN * lm.config.get_text_config().hidden_size * torch.finfo(lm.dtype).bits // 8
        image = (2 if settings.guidance > 1.0 else 1) * (kept * _bytes_a_token(self.model) + encoded * states)
        return max(1, min(int(_SHARE_OF_MEMORY[cuda] * free / image), _MOST_IMAGES))

    def release(self) -> None:
        """Gives back the memory that is kept from batch to batch."""
        self._buffers.release()

    @torch.inference_mode()
    def decode(
        self,
        prefixes: Sequence[Prefix],
        unconditional: Sequence[Prefix],
        uniforms_BT: Tensor,
        settings: SynthesisConfig,
    ) -> Tensor:
        """Returns image codes, int64 [B, T] on the model's device: exactly T for every image.

        Args:
            prefixes: what conditions each image.
            unconditional: prefixes without text, used when ``settings.guidance`` is above 1.
            uniforms_BT: one draw in [0, 1) a token, from the image's own stream.
            settings: temperature, top_k, top_p and guidance.
        """
        every = [*prefixes, *unconditional] if settings.guidance > 1.0 else list(prefixes)
        images, tokens = uniforms_BT.shape
        writer = self._writer(every, tokens)
        uniforms_TB = uniforms_BT.to(self.model.device).T.contiguous()
        codes_TB = torch.empty((tokens, images), dtype=torch.int64, device=self.model.device)
        codes_TB[0] = _draw(self.model, writer.first_states_RC, uniforms_TB[0], settings)
        for token in range(1, tokens):
            writer.open(token)
            codes_TB[token] = self._advance(writer, codes_TB[token - 1], uniforms_TB[token], settings)
        return codes_TB.T.contiguous()

    @torch.inference_mode()
    def states(self, prefixes: Sequence[Prefix], codes_BT: Tensor) -> Tensor:
        """Returns the last hidden states [B, T, C] from which given codes, int64 [B, T], would be predicted."""
        return _states(self._writer(prefixes, codes_BT.shape[1]), codes_BT)

    def _writer(self, prefixes: Sequence[Prefix], tokens: int) -> _Writer:
        if self.shares_prefixes:
            return _SharingWriter(self.model, prefixes, tokens, self._buffers)
        return _CopyingWriter(self.model, prefixes, tokens)


def _advance(writer: _Writer, codes_B: Tensor, uniform_B: Tensor, settings: SynthesisConfig) -> Tensor:
    """Returns the codes of the open token, int64 [B], given those before it."""
    codes_R = codes_B.repeat(2) if settings.guidance > 1.0 else codes_B
    return _draw(writer.model, writer.states(codes_R), uniform_B, settings)


def _draw(model: ImageLanguageModel, states_RC: Tensor, uniform_B: Tensor, settings: SynthesisConfig) -> Tensor:
    logits = model.image_logits(states_RC)
    if settings.guidance > 1.0:
        with_text, without = logits.chunk(2)
        logits = guided(with_text, without, settings.guidance)
    return sample(logits, uniform_B, settings)


def _compiled(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Every length of the buffer in use and every arrangement of prefixes is a graph of its own.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def replay(*inputs: object) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*inputs)

    return replay


def _buffers(model: ImageLanguageModel, compiled: bool) -> Buffers:
    """Returns memory as the device likes it: longer steps in a graph's buffer record fewer graphs."""
    static = compiled or model.device.type != "cpu"
    return Buffers(static, grain=64 if static else 32)


class _Writer:
    """Sequences after their prefixes: writes one token in each at a time."""

    def __init__(self, model: ImageLanguageModel, prefixes: Sequence[Prefix]) -> None:
        self.model = model
        lengths = [[len(prefix.ids)] for prefix in prefixes]
        self._ends_R1 = torch.tensor(lengths, device=model.device)
        self._keys_RT = model.keys(prefixes)
        self._token = torch.zeros(1, dtype=torch.int64, device=model.device)
        self.first_states_RC: Tensor

    def open(self, token: int) -> None:
        """Goes on to token number ``token``, from 1."""
        self._token.fill_(token)

    def states(self, codes_R: Tensor) -> Tensor:
        """Returns the last hidden states [R, C] from which the open token is predicted, given the codes before it."""
        ids_R1 = codes_R[:, None] + self.model.layout.first_code
        states_R1C = self.model.hidden(
            ids_R1,
            self._token.expand_as(ids_R1),
            self._keys_RT.index_select(1, self._token),
            position_ids=self._ends_R1 + self._token - 1,
            use_cache=True,
            **self._attention(),
        )
        return states_R1C[:, 0]

    def _attention(self) -> dict[str, object]:
        raise NotImplementedError


class _SharingWriter(_Writer):
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
            cache, mask_US, states_UC = _encode(model, [prefixes[each[0]] for each in rows])
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


class _CopyingWriter(_Writer):
    """Uses a family's own attention, cache and masks."""

    def __init__(self, model: ImageLanguageModel, prefixes: Sequence[Prefix], tokens: int) -> None:
        super().__init__(model, prefixes)
        distinct = {_identity(prefix): prefix for prefix in prefixes}
        self._cache, mask_US, states_UC = _encode(model, list(distinct.values()))
        places = {identity: place for place, identity in enumerate(distinct)}
        chosen_R = torch.tensor([places[_identity(prefix)] for prefix in prefixes], device=model.device)
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


def _identity(prefix: Prefix) -> Hashable:
    return tuple(prefix.ids), tuple(prefix.cells), prefix.keys.get(0)


def _arrange(prefixes: Sequence[Prefix]) -> dict[int, list[list[int]]]:
    """Returns the rows of each distinct prefix, by how many there are; shorter prefixes come first."""
    rows: dict[Hashable, list[int]] = {}
    for row, prefix in enumerate(prefixes):
        rows.setdefault(_identity(prefix), []).append(row)
    arrangement: dict[int, list[list[int]]] = {}
    for each in sorted(rows.values(), key=lambda each: len(prefixes[each[0]].ids)):
        arrangement.setdefault(len(each), []).append(each)
    return arrangement


def _encode(model: ImageLanguageModel, prefixes: Sequence[Prefix]) -> tuple[DynamicCache, Tensor, Tensor]:
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
    keys_U1 = model.keys(prefixes)[:, :1]
    return cache, mask, _fill(model, cache, ids, cells, keys_U1, mask)[:, -1]


def _common_head(prefixes: Sequence[Prefix]) -> int:
    """Returns how many tokens all prefixes begin with; at least one of each is left."""
    tokens = zip(*(zip(prefix.ids[:-1], prefix.cells[:-1], strict=True) for prefix in prefixes), strict=False)
    return sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, tokens))


def _fill(
    model: ImageLanguageModel, cache: DynamicCache, ids: Tensor, cells: Tensor, keys: Tensor | None, mask: Tensor
) -> Tensor:
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model.hidden(
        ids, cells, keys, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )


@torch.inference_mode()
def _bytes_a_token(model: ImageLanguageModel) -> float:
    """Returns what the cache holds for one token of one sequence."""
    prefix = model.empty_prefix("frontal")
    cache, _, _ = _encode(model, [prefix])
    kept = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in kept if tensor is not None) / len(prefix.ids)


@torch.inference_mode()
def _can_share(model: ImageLanguageModel) -> bool:
    """Returns whether the model's attention could be replaced, by the states of a few tokens either way."""
    lm = model.lm
    longest = model.config.max_text_tokens + model.config.keypatches + model.layout.cells + 64
    if not can_attend(lm, longest):
        return False
    prefixes = [model.empty_prefix(view) for view in ("frontal", "frontal", "lateral")]
    codes = torch.arange(3 * _PROBED_TOKENS, device=model.device).view(3, -1) % model.layout.codes
    want = _states(_CopyingWriter(model, prefixes, _PROBED_TOKENS), codes)
    before = lm.config._attn_implementation
    lm.set_attn_implementation(IMPLEMENTATION)
    try:
        got = _states(_SharingWriter(model, prefixes, _PROBED_TOKENS, _buffers(model, compiled=False)), codes)
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:
        log.debug("%s: %s", type(lm).__name__, error)
        got = torch.full_like(want, torch.inf)
    bound = float(want.abs().max()) * (1e-4 if want.dtype == torch.float32 else 5e-2)
    if same := float((got - want).abs().max()) <= bound:
        return same
    lm.set_attn_implementation(before)
    return False


def _states(writer: _Writer, codes_RT: Tensor) -> Tensor:
    """Returns the states [R, T, C] from which given codes would be predicted."""
    states = [writer.first_states_RC]
    for token in range(1, codes_RT.shape[1]):
        writer.open(token)
        states.append(writer.states(codes_RT[:, token - 1]))
    return torch.stack(states, 1)
