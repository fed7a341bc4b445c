"""Word-patch alignment encoders (paper, module 2; scores as in CAMMAL).

Shapes: B pairs, T texts, W words, P patches (the VQ-GAN's latent cells, row-major), D joint width.
All features are L2-normalised float32, so that a dot product is a cosine in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerBase

from medsynth_core.models.artifact import load_weights, restore, save_weights
from medsynth_core.models.pretrained import load_pretrained
from medsynth_core.models.settings import AlignmentConfig
from medsynth_core.models.text import SILENT_WORDS, load_tokenizer


@dataclass(frozen=True)
class Words:
    """Encoded texts.

    Attributes:
        features_TWD: one feature a word (sub-words averaged); zero where there is no word.
        votes_TW: True where the word may choose patches: no padding, special token, stop word or punctuation.
        words: the words themselves, by text.
        global_TD: one feature a text.
    """

    features_TWD: Tensor
    votes_TW: Tensor
    words: list[list[str]]
    global_TD: Tensor


@dataclass(frozen=True)
class Patches:
    """Encoded images: features of every patch [B, P, D] and of the whole image [B, D]."""

    features_BPD: Tensor
    global_BD: Tensor


class PatchEncoder(nn.Module):
    """Strided convolutions down to the latent grid.

    A patch's feature sees its own cell, a margin around it and its place, and nothing else of the image: what reads
    further would let any patch answer for a finding elsewhere, and its code would then say nothing of that finding.
    The feature of the whole image does see everything.
    """

    def __init__(self, channels: tuple[int, ...], side: int, dim: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inner = 1
        for outer in channels:
            blocks += [nn.Conv2d(inner, outer, 3, 2, 1), _PlaceNorm(outer), nn.GELU()]
            inner = outer
        self.stem = nn.Sequential(*blocks)
        self.position = nn.Parameter(torch.randn(1, inner, side, side) * 0.02)
        self.local = nn.Sequential(nn.Conv2d(inner, 2 * inner, 1), nn.GELU(), nn.Conv2d(2 * inner, dim, 1))
        self.context = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, inner), nn.GELU(), nn.Conv2d(inner, inner, 3, 1, 1)) for _ in range(2)
        )
        self.whole = nn.Linear(inner, dim)

    def forward(self, pixels_B1HW: Tensor) -> Patches:
        grid = self.stem(pixels_B1HW) + self.position
        features_BPD = self.local(grid).flatten(2).transpose(1, 2)
        for block in self.context:
            grid = grid + block(grid)
        return Patches(
            F.normalize(features_BPD.float(), dim=-1),
            F.normalize(self.whole(grid.mean((2, 3))).float(), dim=-1),
        )


class _PlaceNorm(nn.LayerNorm):
    """Normalises the channels of every place by themselves; group norms would mix places."""

    def forward(self, grid_BCHW: Tensor) -> Tensor:
        return super().forward(grid_BCHW.movedim(1, -1)).movedim(-1, 1)


class AlignmentModel(nn.Module):
    """Text encoder, patch encoder and the learnable temperature."""

    def __init__(
        self, config: AlignmentConfig, side: int, tokenizer: PreTrainedTokenizerBase, text: PreTrainedModel
    ) -> None:
        super().__init__()
        self.config = config
        self.side = side
        self.tokenizer = tokenizer
        self.text = text
        width = text.config.hidden_size
        self.word_head = nn.Linear(width, config.dim)
        self.text_head = nn.Linear(width, config.dim)
        self.patches = PatchEncoder(config.image_channels, side, config.dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1.0 / config.temperature)))

    @classmethod
    def fresh(cls, config: AlignmentConfig, side: int, tokenizer: PreTrainedTokenizerBase) -> AlignmentModel:
        """Returns an untrained model; its text encoder is ``config.text_model`` or a small BERT.

        Raises:
            InputError: the named text model can't be loaded.
        """
        if config.text_model is None:
            return cls(config, side, tokenizer, BertModel(_small_bert(config, tokenizer), add_pooling_layer=False))
        text = load_pretrained(AutoModel, config.text_model, "models.alignment.text_model")
        return cls(config, side, tokenizer, text)

    def forward(self, texts: Sequence[str], pixels_B1HW: Tensor) -> tuple[Words, Patches, Tensor]:
        """Returns encoded texts and images, and one over the temperature."""
        return self.encode_words(texts), self.encode_patches(pixels_B1HW), self.scale

    @property
    def device(self) -> torch.device:
        return self.log_scale.device

    @property
    def scale(self) -> Tensor:
        """One over the temperature, kept below 100."""
        return self.log_scale.clamp(max=math.log(100.0)).exp()

    def encode_words(self, texts: Sequence[str]) -> Words:
        """Encodes texts, cut to ``max_text_tokens``; sub-words are averaged into words."""
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.config.max_text_tokens,
            padding=True,
            return_tensors="pt",
        )
        ids_TS = encoded["input_ids"].to(self.device)
        mask_TS = encoded["attention_mask"].to(self.device)
        hidden_TSC = self.text(input_ids=ids_TS, attention_mask=mask_TS).last_hidden_state
        spelled = [_spell(encoded, index, text) for index, text in enumerate(texts)]
        width = max(1, max((len(words) for words, _ in spelled), default=1))
        average_TWS = torch.zeros(len(texts), width, ids_TS.shape[1])
        votes_TW = torch.zeros(len(texts), width, dtype=torch.bool)
        for index, (words, places) in enumerate(spelled):
            for position, (word, tokens) in enumerate(zip(words, places, strict=True)):
                average_TWS[index, position, tokens] = 1.0 / len(tokens)
                votes_TW[index, position] = word.isalpha() and len(word) > 1 and word.lower() not in SILENT_WORDS
        words_TWC = average_TWS.to(hidden_TSC) @ hidden_TSC
        pooled_TC = (hidden_TSC * mask_TS[..., None]).sum(1) / mask_TS.sum(1, keepdim=True).clamp(min=1)
        present_TW1 = (average_TWS.sum(-1, keepdim=True) > 0).to(self.device)
        return Words(
            F.normalize(self.word_head(words_TWC).float(), dim=-1) * present_TW1,
            votes_TW.to(self.device),
            [words for words, _ in spelled],
            F.normalize(self.text_head(pooled_TC).float(), dim=-1),
        )

    def encode_patches(self, pixels_B1HW: Tensor) -> Patches:
        """Encodes images, float32 [B, 1, H, W] in [-1, 1]."""
        patches: Patches = self.patches(pixels_B1HW)
        return patches

    @torch.inference_mode()
    def agreement(self, pixels_B1HW: Tensor, texts: Sequence[str]) -> Tensor:
        """Returns how well each image carries its own text: mean of the local word score and the global cosine,
        float32 [B] in [-1, 1]."""
        place_of_text = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        words, patches = self.encode_words(list(place_of_text)), self.encode_patches(pixels_B1HW)
        text_B = torch.tensor([place_of_text[text] for text in texts], device=self.device)
        similarity_BPW = patches.features_BPD @ words.features_TWD[text_B].transpose(1, 2)
        local = _mean_of_votes(similarity_BPW.amax(1), words.votes_TW[text_B])
        return (local + (patches.global_BD * words.global_TD[text_B]).sum(-1)) / 2

    def save(self, folder: Path) -> None:
        """Writes weights, config and tokenizer into ``folder``."""
        config = {"kind": "alignment", "side": self.side, "alignment": self.config.model_dump(mode="json")}
        save_weights(folder, self.state_dict(), {**config, "text": self.text.config.to_diff_dict()})
        self.tokenizer.save_pretrained(folder / "tokenizer")

    @classmethod
    def load(cls, folder: Path) -> AlignmentModel:
        """Returns the saved model in evaluation mode.

        Raises:
            InputError: the folder holds no alignment model, or its weights don't fit its config.
        """
        state, saved = load_weights(folder, "alignment")
        tokenizer = load_tokenizer(folder / "tokenizer")
        config = AlignmentConfig.model_validate(saved["alignment"])
        if config.text_model is None:
            text: PreTrainedModel = BertModel(_small_bert(config, tokenizer), add_pooling_layer=False)
        else:
            text_config = dict(saved["text"])
            text = AutoModel.from_config(_auto_config(text_config.pop("model_type"), text_config))
        model = cls(config, saved["side"], tokenizer, text)
        restore(model, state, folder)
        return model.eval()


def alignment_losses(
    words: Words, patches: Patches, scale: Tensor, same_BB: Tensor, global_weight: float
) -> dict[str, Tensor]:
    """Returns the contrastive losses of a batch of pairs, each a scalar.

    Local: of the word-patch scores; global: of whole image and whole text. Both are taken in both directions. Pairs
    with the same findings count as positives of each other, so that two studies of one disease don't repel.

    Args:
        same_BB: bool, True where image i and text j show the same findings; the diagonal is True.
    """
    target_BB = same_BB.float() / same_BB.sum(1, keepdim=True)

    def contrast(score_BT: Tensor) -> Tensor:
        return (F.cross_entropy(scale * score_BT, target_BB) + F.cross_entropy(scale * score_BT.T, target_BB)) / 2

    whole = contrast(patches.global_BD @ words.global_TD.T)
    return {"local": contrast(local_scores(words, patches)), "global": global_weight * whole}


def local_scores(words: Words, patches: Patches) -> Tensor:
    """Returns the word-patch score of every image with every text, [B, T]: the mean over voting words of the best
    patch (CAMMAL's text-to-image score).

    CAMMAL's image-to-text score, the mean over patches of the best word, is left out: most patches show nothing that
    a report says, and asking a word of each drew the words away from their findings (docs/explanation/method.md).
    """
    similarity_BTPW = torch.einsum("bpd,twd->btpw", patches.features_BPD, words.features_TWD)
    return _mean_of_votes(similarity_BTPW.amax(2), words.votes_TW[None])


def _mean_of_votes(scores: Tensor, votes: Tensor) -> Tensor:
    return (scores * votes).sum(-1) / votes.sum(-1).clamp(min=1)


def _spell(encoded: object, index: int, text: str) -> tuple[list[str], list[list[int]]]:
    """Returns the words of one text and the token positions of each."""
    places: dict[int, list[int]] = {}
    for position, word in enumerate(encoded.word_ids(index)):  # type: ignore[attr-defined]
        if word is not None:
            places.setdefault(word, []).append(position)
    words = []
    for word in places:
        span = encoded.word_to_chars(index, word)  # type: ignore[attr-defined]
        words.append(text[span.start : span.end].strip())
    return words, list(places.values())


def _small_bert(config: AlignmentConfig, tokenizer: PreTrainedTokenizerBase) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.dim,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        intermediate_size=2 * config.dim,
        max_position_embeddings=config.max_text_tokens,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )


def _auto_config(model_type: str, values: dict[str, object]) -> object:
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **values)
