"""Decoding on a GPU: one step is compiled and captured as a CUDA graph once, and replayed for every token of every
batch.

Shapes: B images, R sequences (B, or 2 B with guidance), U distinct prefixes, T image tokens, L codes of a cell, C
hidden width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsynth_core.models.condition import Condition
from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.models.memory import is_out_of_memory
from medsynth_core.synthesis.settings import SynthesisConfig
from medsynth_core.synthesis.static_cache import StaticCache
from medsynth_core.synthesis.writers import Writer, distinguish, encode

log = logging.getLogger(__name__)

_ENCODED_AT_ONCE = 64
"""Prefixes, so that memory doesn't hold the states of all of them."""


class StaticWriter(Writer):
    """On a GPU: all that a step reads stays where it was in the batch before, so that a captured graph can be
    replayed.

    Args:
        sequences: R, of every batch.
        tokens: that are written at most.

    Raises:
        ValueError: keys and values have several shapes.
    """

    def __init__(self, model: ImageLanguageModel, sequences: int, tokens: int) -> None:
        anything = model.empty_prefix(Condition((), "frontal"))
        super().__init__(model, [anything] * sequences)
        like, _, _ = encode(model, [anything])
        heads = model.lm.config.get_text_config().num_attention_heads // like.layers[0].keys.shape[1]
        self._cache = StaticCache(like, heads, sequences, tokens - 1)

    def load(self, prefixes: Sequence[Prefix]) -> bool:
        """Begins a batch of R sequences; those that have the same prefix are best beside each other.

        Returns:
            Whether memory had to move, so that a captured graph is void.
        """
        distinct, places = distinguish(prefixes)
        moved = self._cache.clear(sum(len(prefix.ids) for prefix in distinct))
        states = []
        for start in range(0, len(distinct), _ENCODED_AT_ONCE):
            cache, mask_US, states_UC = encode(self.model, distinct[start : start + _ENCODED_AT_ONCE])
            self._cache.add(cache, mask_US)
            states.append(states_UC)
        self._cache.share(places)
        place_R = torch.tensor(places, device=self.model.device)
        ends_U1 = torch.tensor([[len(prefix.ids)] for prefix in distinct], device=self.model.device)
        self._ends_R1.copy_(ends_U1[place_R])
        known_RTL = self.model.known(distinct)[place_R]
        self._known_RTL[:, : known_RTL.shape[1]].copy_(known_RTL)
        self.first_states_RC = torch.cat(states)[place_R]
        return moved

    def open(self, token: int) -> None:
        super().open(token)
        self._cache.written.fill_(token - 1)

    def go_on(self) -> None:
        """Opens the next token, by the device alone."""
        self._token.add_(1)
        self._cache.written.add_(1)

    @property
    def token(self) -> Tensor:
        """The open token, int64 [1] on the device."""
        return self._token

    def _attention(self) -> dict[str, object]:
        return {"attention_mask": self._cache.bias, "past_key_values": self._cache, "shared": self._cache}


class GraphDecoder:
    """Decodes batches on a GPU; those smaller than the largest so far are filled up by images that nobody sees, since
    a captured graph has a fixed size. Elsewhere it takes the same steps without capturing them.

    Args:
        model: in evaluation mode, its attention replaced.

    Attributes:
        failed: a step couldn't be compiled and captured; from then on steps are taken without.
    """

    def __init__(self, model: ImageLanguageModel) -> None:
        self.failed = False
        self._model = model
        self._step: _Step | None = None
        self._codes = Writer.codes
        if model.device.type == "cuda":
            # Every size of a batch is compiled by itself.
            torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
            self._codes = torch.compile(Writer.codes, fullgraph=True, dynamic=False)

    def release(self) -> None:
        """Gives back the memory that is kept from batch to batch."""
        self._step = None

    def writer(self, prefixes: Sequence[Prefix], tokens: int) -> StaticWriter:
        """Returns a writer of its own after these prefixes.

        Raises:
            ValueError: keys and values have several shapes.
        """
        writer = StaticWriter(self._model, len(prefixes), tokens)
        writer.load(prefixes)
        return writer

    def decode(self, sides: Sequence[Sequence[Prefix]], uniforms_BT: Tensor, settings: SynthesisConfig) -> Tensor:
        """As ``Engine.decode``; ``sides`` are the prefixes and, with guidance, those without text."""
        step, images = self._step, len(uniforms_BT)
        if step is None or step.settings != settings or images > step.images:
            self._step = step = None  # memory holds one
            codes = None if self.failed else self._codes
            self._step = step = _Step(self._model, codes, settings, images, images * len(sides))
        decoded = step.decode(sides, uniforms_BT)
        self.failed = step.failed
        return decoded


class _Step:
    """What is captured for a size of batch, and what it reads and writes.

    Args:
        codes: ``Writer.codes``, compiled where that is possible; None when nothing is to be captured.
    """

    def __init__(
        self,
        model: ImageLanguageModel,
        codes: Callable[..., Tensor] | None,
        settings: SynthesisConfig,
        images: int,
        sequences: int,
    ) -> None:
        self.settings = settings
        self.images = images
        self.failed = codes is None
        self._codes = codes or Writer.codes
        tokens, device = model.layout.tokens, model.device
        self._writer = StaticWriter(model, sequences, tokens)
        self._uniforms_TB = torch.zeros((tokens, images), device=device)
        self._codes_TB = torch.zeros((tokens, images), dtype=torch.int64, device=device)
        self._codes_B = torch.zeros(images, dtype=torch.int64, device=device)
        self._replay: Callable[[], object] | None = None

    def decode(self, sides: Sequence[Sequence[Prefix]], uniforms_BT: Tensor) -> Tensor:
        """As ``GraphDecoder.decode``."""
        images, tokens = uniforms_BT.shape
        missing = self.images - images
        if self._writer.load([prefix for side in sides for prefix in (*side, *[side[-1]] * missing)]):
            self._replay = None
        self._uniforms_TB[:tokens, :images] = uniforms_BT.T.to(self._uniforms_TB.device)
        replay = self._captured()
        self._codes_B.copy_(self._writer.first_codes(self._uniforms_TB[0], self.settings))
        self._codes_TB[0] = self._codes_B
        self._writer.open(1)
        for _ in range(1, tokens):
            replay()
        return self._codes_TB[:tokens, :images].T.contiguous()

    def _captured(self) -> Callable[[], object]:
        if self._replay is None and not self.failed:
            log.info("compiling and capturing a step of %d images", self.images)
            try:
                self._replay = self._capture()
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                log.warning(
                    "a step can't be compiled and captured (%s), so decoding goes on without a graph, slower: "
                    "torch.compile needs a C compiler, and a Triton and a driver that suit this PyTorch",
                    " ".join(str(error).split())[:200],
                )
                self._codes, self.failed = Writer.codes, True
        return self._replay or self._advance

    def _capture(self) -> Callable[[], object]:
        self._writer.open(1)
        if not self._codes_B.is_cuda:
            self._advance()
            return self._advance
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._advance()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads use the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._advance()
        return graph.replay

    def _advance(self) -> None:
        token = self._writer.token
        uniform_B = self._uniforms_TB.index_select(0, token)[0]
        self._codes_B.copy_(self._codes(self._writer, self._codes_B, uniform_B, self.settings))
        self._codes_TB.index_copy_(0, token, self._codes_B[None])
        self._writer.go_on()
