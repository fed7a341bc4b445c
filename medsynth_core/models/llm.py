"""The causal language model over text, keypatch and image tokens (paper, module 2; layout as in LLM-CXR).

Token ids: the base tokenizer's text ids come first; then the markers, one id a place of an image token (a latent cell
in a level of the image tokenizer), one id an image code, so that image code k is ``layout.first_code + k``, and one a
code as a keypatch's. A sequence reads

    synthesise, condition, instruction | Input: report | Reference: the keypatches, best first | Response: codes

and in the reverse task ``describe, condition, instruction | Input: codes | Response: report, end``. The condition has
one marker for each part that is known beside the findings, such as the view.

A token that stands for a place, or from which the code of a place is predicted, is embedded as the sum of its own
embedding, the place's, and those of what is known of its cell: the keypatch, if there is one, and the codes of the
levels below. So they are at hand where a cell is written; to look them up by relative position would have to be learnt
from much more data (docs/decisions/0004).

Shapes: B sequences, S prefix tokens (left-padded), T image tokens, V ids, K image codes, L codes of a cell, C hidden
width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from medsynth_core.errors import InputError
from medsynth_core.models.codebook import Keypatch
from medsynth_core.models.condition import Condition
from medsynth_core.models.instructions import DESCRIBE, SYNTHESISE
from medsynth_core.models.pretrained import load_pretrained
from medsynth_core.models.settings import LLMConfig
from medsynth_core.models.text import load_tokenizer

_MARKERS = ("synthesise", "describe", "frontal", "lateral", "input", "reference", "response", "end", "pad")


@dataclass(frozen=True)
class TokenLayout:
    """Where each kind of token id begins.

    Attributes:
        text_tokens: ids [0, text_tokens) are the base tokenizer's.
        cells: latent cells of an image.
        codes: VQ codes; each has an id as an image token and one as a keypatch.
        levels: codes of a cell.
    """

    text_tokens: int
    cells: int
    codes: int
    levels: int = 1

    @property
    def tokens(self) -> int:
        """Image tokens an image: all cells of the first level, then those of the next."""
        return self.cells * self.levels

    def marker(self, name: str) -> int:
        """Returns the id of a marker."""
        return self.text_tokens + _MARKERS.index(name)

    @property
    def first_cell(self) -> int:
        return self.text_tokens + len(_MARKERS)

    @property
    def first_code(self) -> int:
        return self.first_cell + self.tokens

    @property
    def first_keypatch(self) -> int:
        return self.first_code + self.codes

    @property
    def size(self) -> int:
        """Ids in all."""
        return self.first_keypatch + self.codes


@dataclass(frozen=True)
class Prefix:
    """What comes before a response.

    Attributes:
        ids: token ids.
        cells: of each id the place whose embedding is added, or -1; the places of the first level are the cells.
        keypatch_codes: the code of the keypatch in each cell that has one.
    """

    ids: list[int]
    cells: list[int]
    keypatch_codes: Mapping[int, int] = field(default_factory=dict)


class ImageLanguageModel(nn.Module):
    """A causal LM whose vocabulary was extended by markers, latent places and image codes.

    Attributes:
        image_head: stands in for the image codes' rows of the output head, where one was set for inference.
    """

    def __init__(
        self, config: LLMConfig, layout: TokenLayout, tokenizer: PreTrainedTokenizerBase, lm: PreTrainedModel
    ) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        self.tokenizer = tokenizer
        self.lm = lm
        self.image_head: nn.Module | None = None

    @classmethod
    def fresh(
        cls, config: LLMConfig, cells: int, codes: int, tokenizer: PreTrainedTokenizerBase, levels: int = 1
    ) -> ImageLanguageModel:
        """Returns ``config.base`` with its embeddings extended, or a small untrained Llama.

        Raises:
            InputError: the base model can't be loaded.
        """
        layout = TokenLayout(len(tokenizer), cells, codes, levels)
        if config.base is None:
            return cls(config, layout, tokenizer, LlamaForCausalLM(_small_llama(config, layout)))
        lm = load_pretrained(AutoModelForCausalLM, config.base, "models.llm.base", dtype=torch.float32)
        # Embeddings may be padded beyond the tokenizer; new rows are drawn around the mean of the old ones, but
        # cells and keypatches around zero, since they are added to others.
        layout = TokenLayout(max(len(tokenizer), lm.get_input_embeddings().num_embeddings), cells, codes, levels)
        mean = lm.get_input_embeddings().weight.detach().mean(0)
        table = lm.resize_token_embeddings(layout.size, mean_resizing=True).weight.detach()
        table[layout.first_cell : layout.first_code] -= mean
        table[layout.first_keypatch :] -= mean
        return cls(config, layout, tokenizer, lm)

    def cast(self, dtype: torch.dtype) -> ImageLanguageModel:
        """Casts the weights, and only them: rotary frequencies stay float32. Returns the model."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def prefix(self, condition: Condition, text: str, keypatches: Sequence[Keypatch], wording: int = 0) -> Prefix:
        """Returns what conditions one image, up to and with the response marker.

        Args:
            condition: whose findings are told by the text and the keypatches alone.
            text: what ``condition.text`` gives, or nothing.
            wording: which paraphrase of the instruction; only a pretrained model is given one.
        """
        at = self.layout
        head = [*self._task("synthesise", condition), *self._instruction(SYNTHESISE, wording), at.marker("input")]
        head += [*self._text(text), at.marker("reference")]
        patches = keypatches[: self.config.keypatches]
        ids = [*head, *(at.first_keypatch + patch.code for patch in patches), at.marker("response")]
        cells = [*[-1] * len(head), *(patch.cell for patch in patches), 0]
        return Prefix(ids, cells, {patch.cell: patch.code for patch in patches})

    def reverse_prefix(self, codes: Sequence[int], condition: Condition, wording: int = 0) -> Prefix:
        """Returns what asks for the report of an image, up to and with the response marker."""
        at = self.layout
        head = [*self._task("describe", condition), *self._instruction(DESCRIBE, wording), at.marker("input")]
        ids = [*head, *(at.first_code + code for code in codes), at.marker("response")]
        return Prefix(ids, [*[-1] * len(head), *range(len(codes)), -1])

    def _task(self, name: str, condition: Condition) -> list[int]:
        return [self.layout.marker(each) for each in (name, *condition.markers())]

    def _instruction(self, wordings: Sequence[str], index: int) -> list[int]:
        return self._text(wordings[index % len(wordings)]) if self.config.base is not None else []

    def _text(self, text: str) -> list[int]:
        if not text:
            return []
        limit = self.config.max_text_tokens
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]
        return ids

    def empty_prefix(self, condition: Condition) -> Prefix:
        """Returns the prefix without text and keypatches, as guidance contrasts with it."""
        return self.prefix(condition.unconditional(), "", [])

    def pad(self, prefixes: Sequence[Prefix]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ids, cells and attention mask, int64 [B, S], padded on the left."""
        width = max(len(prefix.ids) for prefix in prefixes)
        gaps = [width - len(prefix.ids) for prefix in prefixes]
        pairs = list(zip(gaps, prefixes, strict=True))
        ids_BS = [[self.layout.marker("pad")] * gap + prefix.ids for gap, prefix in pairs]
        cells_BS = [[-1] * gap + prefix.cells for gap, prefix in pairs]
        mask_BS = [[0] * gap + [1] * len(prefix.ids) for gap, prefix in pairs]
        ids, cells, mask = torch.tensor([ids_BS, cells_BS, mask_BS], device=self.device)
        return ids, cells, mask

    def known(self, prefixes: Sequence[Prefix], codes_BT: Tensor | None = None) -> Tensor:
        """Returns the ids of what is known of the cell of every image token, int64 [B, T, L]: the keypatch, then the
        codes of the levels below; -1 where there is none.

        Args:
            codes_BT: the image's codes; None: none is written yet.
        """
        at = self.layout
        known_BTL = torch.full((len(prefixes), at.tokens, at.levels), -1, device=self.device)
        for row, prefix in enumerate(prefixes):
            for cell, code in prefix.keypatch_codes.items():
                known_BTL[row, cell :: at.cells, 0] = at.first_keypatch + code
        if codes_BT is not None:
            for below in range(1, at.levels):
                known_BTL[:, below * at.cells :, below] = at.first_code + codes_BT[:, : -below * at.cells]
        return known_BTL

    def hidden(self, ids: Tensor, cells: Tensor, known: Tensor | None, **inputs: object) -> Tensor:
        """Returns the last hidden states [B, S, C] of ids at cells (-1: none), without the output head.

        Args:
            known: int64 [B, n, L], ids of what is known (-1: nothing) of the cells of the last n ids.
            inputs: attention_mask, position_ids and cache, as the transformer's own forward takes them.
        """
        embed = self.lm.get_input_embeddings()
        inputs_BSC = embed(ids) + embed(self.layout.first_cell + cells.clamp(min=0)) * (cells >= 0)[..., None]
        if known is not None:
            known_BnC = (embed(known.clamp(min=0)) * (known >= 0)[..., None]).sum(-2)
            inputs_BSC = inputs_BSC + nn.functional.pad(known_BnC, (0, 0, ids.shape[1] - known.shape[1], 0))
        states: Tensor = self.lm.base_model(inputs_embeds=inputs_BSC, **inputs).last_hidden_state
        return states

    def image_logits(self, hidden: Tensor) -> Tensor:
        """Returns logits over the image codes alone, float32 [..., K], of hidden states [..., C]."""
        if self.image_head is not None:
            logits: Tensor = self.image_head(hidden)
            return logits.float()
        return self._logits(hidden, slice(self.layout.first_code, self.layout.first_code + self.layout.codes))

    def forward(
        self,
        prefixes: Sequence[Prefix],
        codes_BT: Tensor,
        reverse_prefixes: Sequence[Prefix] = (),
        reports: Sequence[str] = (),
        wanted_BTK: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the loss terms in nats a token, each a scalar; a task without samples has none.

        ``image``: of the image tokens after their prefix. Only image codes can follow the response marker, so the
        softmax runs over them alone, as in decoding. ``text``: of the text tokens inside the prefixes, when
        ``text_weight`` isn't 0. ``report``: of the reports after ``reverse_prefixes``.

        Args:
            wanted_BTK: how likely each code should be, in place of the image's own as the only one.
        """
        losses: dict[str, Tensor] = {}
        if prefixes:
            codes_BT = codes_BT.to(self.device)
            states, ids = self._written(prefixes, codes_BT)
            logits_BTK = self.image_logits(states[:, -codes_BT.shape[1] :])
            wanted = codes_BT if wanted_BTK is None else wanted_BTK.transpose(1, 2)
            losses["image"] = cross_entropy(logits_BTK.transpose(1, 2), wanted)
            if self.config.text_weight > 0:
                losses["text"] = self._text_loss(states[:, :-1], ids[:, 1:])
        if reverse_prefixes:
            end = self.layout.marker("end")
            answers = [[*self._text(report), end] for report in reports]
            ids, cells, mask = self.pad(
                [
                    Prefix([*prefix.ids, *answer], [*prefix.cells, *[-1] * len(answer)])
                    for prefix, answer in zip(reverse_prefixes, answers, strict=True)
                ]
            )
            longest = max(len(answer) for answer in answers)
            lengths = torch.tensor([len(answer) for answer in answers], device=self.device)
            is_answer = torch.arange(longest, 0, -1, device=self.device) <= lengths[:, None]
            following = ids[:, -longest:].masked_fill(~is_answer, self.layout.marker("pad"))
            losses["report"] = self._text_loss(self._states(ids, cells, mask)[:, -longest - 1 : -1], following)
        return losses

    def token_logits(self, prefixes: Sequence[Prefix], codes_BT: Tensor) -> Tensor:
        """Returns the logits of each image token, float32 [B, T, K], after its prefix and the tokens before it."""
        codes_BT = codes_BT.to(self.device)
        states, _ = self._written(prefixes, codes_BT)
        return self.image_logits(states[:, -codes_BT.shape[1] :])

    def _written(self, prefixes: Sequence[Prefix], codes_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the hidden states of prefixes and image tokens but the last, and their ids, int64 [B, S + T - 1]."""
        ids_BS, cells_BS, mask_BS = self.pad(prefixes)
        before_BT = codes_BT[:, :-1]
        ids = torch.cat([ids_BS, before_BT + self.layout.first_code], 1)
        following_T = torch.arange(1, codes_BT.shape[1], device=self.device)
        cells = torch.cat([cells_BS, following_T.expand_as(before_BT)], 1)
        mask = torch.cat([mask_BS, torch.ones_like(before_BT)], 1)
        return self._states(ids, cells, mask, self.known(prefixes, codes_BT)), ids

    def image_loss(self, prefixes: Sequence[Prefix], codes_BT: Tensor) -> Tensor:
        """Returns the mean cross-entropy of the image tokens in nats a token."""
        return self(prefixes, codes_BT)["image"]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def draw(self, prefixes: Sequence[Prefix], uniforms_BT: Tensor) -> Tensor:
        """Returns codes, int64 [B, T], by a draw in [0, 1) each, as likely as the model says they are: for a look at a
        model in training. To make images there is ``synthesis.engine``."""
        ids, cells, mask = self.pad(prefixes)
        cache = DynamicCache(config=self.lm.config)
        codes_BT = torch.zeros(uniforms_BT.shape, dtype=torch.int64, device=self.device)
        for place, uniforms_B in enumerate(uniforms_BT.to(self.device).T):
            states = self.hidden(
                ids,
                cells,
                self.known(prefixes, codes_BT)[:, place : place + 1],
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :],
                past_key_values=cache,
                use_cache=True,
            )
            reached_BK = self.image_logits(states[:, -1]).softmax(-1).cumsum(-1)
            drawn_B1 = torch.searchsorted(reached_BK, uniforms_B[:, None] * reached_BK[:, -1:], right=True)
            codes_BT[:, place] = drawn_B1[:, 0].clamp(max=self.layout.codes - 1)
            ids = codes_BT[:, place : place + 1] + self.layout.first_code
            cells = torch.full_like(ids, place + 1)
            mask = nn.functional.pad(mask, (0, 1), value=1)
        return codes_BT

    def _states(self, ids: Tensor, cells: Tensor, mask: Tensor, known: Tensor | None = None) -> Tensor:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return self.hidden(ids, cells, known, attention_mask=mask, position_ids=positions, use_cache=False)

    def _text_loss(self, states: Tensor, following: Tensor) -> Tensor:
        """Returns the mean cross-entropy where a text token or the end marker follows, over those ids; 0 where none
        does."""
        end = self.layout.marker("end")
        chosen = (following < self.layout.text_tokens) | (following == end)
        rows = torch.cat([torch.arange(self.layout.text_tokens), torch.tensor([end])]).to(self.device)
        targets = following[chosen].clamp(max=self.layout.text_tokens)
        return cross_entropy(self._logits(states[chosen], rows), targets, reduction="sum") / max(1, len(targets))

    def _logits(self, hidden: Tensor, rows: slice | Tensor) -> Tensor:
        head = self.lm.get_output_embeddings()
        bias = None if head.bias is None else head.bias[rows]
        return nn.functional.linear(hidden, head.weight[rows].to(hidden.dtype), bias).float()

    def save(self, folder: Path) -> None:
        """Writes weights, configs and tokenizer into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.lm.config.save_pretrained(folder / "lm")
        # Tied weights share memory; safetensors keeps each once and load ties them again.
        state = {k: v.detach().cpu().contiguous() for k, v in self.lm.state_dict().items()}
        if self.lm.config.tie_word_embeddings:
            tied = self.lm.get_input_embeddings().weight.data_ptr()
            names = [k for k, v in self.lm.state_dict().items() if v.data_ptr() == tied]
            for name in names[1:]:
                del state[name]
        save_file(state, folder / "model.safetensors")
        about = {
            "kind": "llm",
            "llm": self.config.model_dump(mode="json"),
            "layout": asdict(self.layout),
        }
        (folder / "config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", "utf-8")
        self.tokenizer.save_pretrained(folder / "tokenizer")

    @classmethod
    def load(cls, folder: Path) -> ImageLanguageModel:
        """Returns the saved model in evaluation mode.

        Raises:
            InputError: the folder holds no language model, or its weights don't fit its config.
        """
        try:
            about = json.loads((folder / "config.json").read_text("utf-8"))
            state = load_file(folder / "model.safetensors")
        except FileNotFoundError as error:
            raise InputError(
                f"{folder}: no llm model there; train it, or set models.path to a folder that has one"
            ) from error
        known = LLMConfig.model_fields  # settings that are gone told how it was trained, not what it is
        lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "lm"), dtype=torch.float32)
        missing, unexpected = lm.load_state_dict(state, strict=False)
        tied = set(getattr(lm, "_tied_weights_keys", None) or ()) if lm.config.tie_word_embeddings else set()
        if unexpected or set(missing) - tied:
            raise InputError(f"{folder}: weights don't fit config.json: {[*missing, *unexpected][:3]}")
        lm.tie_weights()
        model = cls(
            LLMConfig.model_validate({name: about["llm"][name] for name in about["llm"] if name in known}),
            TokenLayout(**about["layout"]),
            load_tokenizer(folder / "tokenizer"),
            lm,
        )
        return model.eval()


def guided(logits_with: Tensor, logits_without: Tensor, scale: float) -> Tensor:
    """Returns classifier-free guided logits [..., K] (Ho & Salimans 2022, eq. 6, with w = scale - 1)."""
    return logits_without + scale * (logits_with - logits_without)


def _small_llama(config: LLMConfig, layout: TokenLayout) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=layout.size,
        hidden_size=config.hidden,
        intermediate_size=3 * config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.max_text_tokens + config.keypatches + layout.tokens + len(_MARKERS),
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
