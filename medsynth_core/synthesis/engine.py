"""The decoding engine: image tokens of a batch, as fast as the machine moves and multiplies them.

- A prefix is encoded once for all images that have it, and what all prefixes of a batch begin with once for all.
- Keys and values of prefixes are shared, those of image tokens lie in a buffer (``attention``; on a GPU
  ``static_cache``).
- The output head is cut to the image codes; every image has the same number of tokens, so nothing tests for a stop
  and nothing waits for the device between two tokens. On a GPU a token is one replay of a captured graph.
- Sampling runs on the device, from draws that belong to each image (``identity.uniforms``).

A family whose attention can't be replaced decodes through its own, with the prefixes encoded once and copied.

Shapes: B images, R sequences (B, or 2 B with guidance), T image tokens, C hidden width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from medsynth_core.models.condition import Condition
from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.models.memory import is_out_of_memory
from medsynth_core.synthesis.attention import IMPLEMENTATION, Buffers, can_attend
from medsynth_core.synthesis.settings import SynthesisConfig
from medsynth_core.synthesis.writers import CopyingWriter, SharingWriter, Writer, encode

if TYPE_CHECKING:
    from medsynth_core.synthesis.graph_decoder import GraphDecoder

log = logging.getLogger(__name__)

_MOST_IMAGES = 1024
"""Of a batch, where memory would hold more."""
_SHARE_OF_MEMORY = {True: 0.7, False: 0.4}
"""Of what is free, by whether it is a GPU's; the models' other work and other shards need the rest."""
_STATES_A_TOKEN = 24
"""Activations of a prefix token while it is encoded, in hidden widths."""
_PROBED_TOKENS = 3
_REPLACEABLE = "a models.llm.base like Llama, Qwen or GPT-NeoX is decoded faster"


class Engine:
    """Decodes with one model on one device; not for several threads at once.

    Args:
        model: in evaluation mode.
        capture: compile a step and capture it as a CUDA graph, where the model and the machine let us.

    Attributes:
        shares_prefixes: whether the model's attention was replaced.

    Raises:
        torch.OutOfMemoryError: memory doesn't even suffice to try the replaced attention.
    """

    def __init__(self, model: ImageLanguageModel, capture: bool = False) -> None:
        self.model = model
        self._buffers = Buffers()
        self._graph_decoder: GraphDecoder | None = None
        problem = ""
        if capture:
            self._graph_decoder, problem = _graph_decoder(model)
        self.shares_prefixes = self._graph_decoder is not None
        if not self.shares_prefixes:
            refusal = _refusal(model, self._sharing)
            self.shares_prefixes = not refusal
            problem = refusal or problem
        if problem:
            log.warning("%s decodes by %s, slower: %s", type(model.lm).__name__, self.path, problem)

    @property
    def path(self) -> str:
        """How tokens are decoded: by a captured ``graph``, by ``shared prefixes`` or by ``copied prefixes``."""
        if self._graph_decoder is not None and not self._graph_decoder.failed:
            return "graph"
        return "shared prefixes" if self.shares_prefixes else "copied prefixes"

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
        kept = self.model.layout.tokens + (encoded if self.shares_prefixes else prefix_tokens)
        states = _STATES_A_TOKEN * lm.config.get_text_config().hidden_size * torch.finfo(lm.dtype).bits // 8
        image = (2 if settings.guidance > 1.0 else 1) * (kept * _bytes_a_token(self.model) + encoded * states)
        return max(1, min(int(_SHARE_OF_MEMORY[cuda] * free / image), _MOST_IMAGES))

    def release(self) -> None:
        """Gives back the memory that is kept from batch to batch."""
        self._buffers.release()
        if self._graph_decoder is not None:
            self._graph_decoder.release()

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
        sides = (prefixes, unconditional) if settings.guidance > 1.0 else (prefixes,)
        if self._graph_decoder is not None:
            return self._graph_decoder.decode(sides, uniforms_BT, settings)
        images, tokens = uniforms_BT.shape
        writer = self._writer([prefix for side in sides for prefix in side], tokens)
        uniforms_TB = uniforms_BT.to(self.model.device).T.contiguous()
        codes_TB = torch.empty((tokens, images), dtype=torch.int64, device=self.model.device)
        codes_TB[0] = writer.first_codes(uniforms_TB[0], settings)
        for token in range(1, tokens):
            writer.open(token)
            codes_TB[token] = writer.codes(codes_TB[token - 1], uniforms_TB[token], settings)
        return codes_TB.T.contiguous()

    @torch.inference_mode()
    def states(self, prefixes: Sequence[Prefix], codes_BT: Tensor) -> Tensor:
        """Returns the last hidden states [B, T, C] from which given codes, int64 [B, T], would be predicted."""
        return self._writer(prefixes, codes_BT.shape[1]).follow(codes_BT)

    def _writer(self, prefixes: Sequence[Prefix], tokens: int) -> Writer:
        if self._graph_decoder is not None:
            return self._graph_decoder.writer(prefixes, tokens)
        if self.shares_prefixes:
            return self._sharing(prefixes, tokens)
        return CopyingWriter(self.model, prefixes, tokens)

    def _sharing(self, prefixes: Sequence[Prefix], tokens: int) -> Writer:
        return SharingWriter(self.model, prefixes, tokens, self._buffers)


def _graph_decoder(model: ImageLanguageModel) -> tuple[GraphDecoder | None, str]:
    """Returns a decoder by captured graph, or None and why there is none."""
    if find_spec("triton") is None:
        return None, "Triton isn't installed; install the package triton in the version that this PyTorch asks for"
    from medsynth_core.synthesis.graph_decoder import GraphDecoder

    decoder = GraphDecoder(model)
    refusal = _refusal(model, decoder.writer)
    return (None, refusal) if refusal else (decoder, "")


@torch.inference_mode()
def _bytes_a_token(model: ImageLanguageModel) -> float:
    """Returns what the cache holds for one token of one sequence."""
    prefix = model.empty_prefix(Condition((), "frontal"))
    cache, _, _ = encode(model, [prefix])
    kept = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in kept if tensor is not None) / len(prefix.ids)


@torch.inference_mode()
def _refusal(model: ImageLanguageModel, write: Callable[[Sequence[Prefix], int], Writer]) -> str:
    """Replaces the model's attention and returns "", or leaves it and returns why it can't be replaced: the states of
    a few tokens are compared either way."""
    lm = model.lm
    longest = model.config.max_text_tokens + model.config.keypatches + model.layout.tokens + 64
    if not can_attend(lm, longest):
        return f"its attention can't be replaced; {_REPLACEABLE}"
    prefixes = [model.empty_prefix(Condition((), view)) for view in ("frontal", "frontal", "lateral")]
    codes = torch.arange(3 * _PROBED_TOKENS, device=model.device).view(3, -1) % model.layout.codes
    want = CopyingWriter(model, prefixes, _PROBED_TOKENS).follow(codes)
    before = lm.config._attn_implementation
    lm.set_attn_implementation(IMPLEMENTATION)
    try:
        off = float((write(prefixes, _PROBED_TOKENS).follow(codes) - want).abs().max())
        bound = float(want.abs().max()) * (1e-4 if want.dtype == torch.float32 else 5e-2)
        if off <= bound:
            return ""
        refusal = f"its states are off by {off:.2g} when its attention is replaced, {bound:.2g} are allowed"
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            lm.set_attn_implementation(before)
            raise
        refusal = f"its attention can't be replaced ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    lm.set_attn_implementation(before)
    return f"{refusal}; {_REPLACEABLE}"
