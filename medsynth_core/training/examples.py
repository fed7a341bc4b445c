"""What the language model learns from: every pair's image tokens, text and keypatches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.codebook import Keypatch, VisualCodebook
from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.models.settings import LLMConfig
from medsynth_core.models.tokenizers import ImageTokenizer
from medsynth_core.training.jitter import jittered
from medsynth_core.training.pairs import Pairs
from medsynth_core.vocabulary.phrasing import Phrasing


class Examples:
    """Image tokens and keypatches of every pair, computed once.

    Keypatches are retrieved from the visual codebook by the findings' words, exactly as a prompt's are, never read
    off the image that is to be predicted.

    Attributes:
        codes_NT: int64 [pairs, tokens].
        texts: what of each report the model reads.
        keypatches: of each pair, best first.
    """

    def __init__(
        self,
        pairs: Pairs,
        image_tokenizer: ImageTokenizer,
        alignment: AlignmentModel,
        codebook: VisualCodebook,
        settings: LLMConfig,
        phrasing: Phrasing,
        batch_size: int = 32,
    ) -> None:
        self.pairs = pairs
        self._phrasing = phrasing
        self._image_tokenizer = image_tokenizer
        self._unread = [settings.condition == "report" and not reported for reported in pairs.reported]
        self.codes_NT = image_codes(pairs, image_tokenizer, batch_size)
        self.texts = [
            condition.text(settings.condition, report)
            for condition, report in zip(pairs.conditions, pairs.texts, strict=True)
        ]
        queries = [condition.query for condition in pairs.conditions]
        distinct = sorted(set(queries))
        found: dict[str, list[Keypatch]] = {}
        for start in range(0, len(distinct), batch_size):
            chunk = distinct[start : start + batch_size]
            if settings.keypatch_choice == "random":
                patches = codebook.random_keypatches(chunk, settings.keypatches)
            else:
                patches = codebook.keypatches(alignment, chunk, settings.keypatches)
            found.update(zip(chunk, patches, strict=True))
        self.keypatches = [found[query] for query in queries]

    def __len__(self) -> int:
        return len(self.pairs)

    def codes(self, picks: list[int], draws_BF: npt.NDArray[np.float64], jitter: float) -> torch.Tensor:
        """Returns the image tokens of some pairs, int64 [n, tokens]; of images jittered by draws when ``jitter`` isn't
        0."""
        if jitter == 0 or not picks:
            return self.codes_NT[picks]
        pixels = torch.from_numpy(self.pairs.pixels(np.array(picks))).to(self._image_tokenizer.device)
        return self._image_tokenizer.encode(jittered(pixels, draws_BF, jitter))

    def prefix(
        self,
        model: ImageLanguageModel,
        index: int,
        *,
        text: bool = True,
        keypatches: bool = True,
        written: bool = False,
        wording: int = 0,
    ) -> Prefix:
        """Returns what conditions a pair's image, with or without its text and its keypatches.

        Args:
            written: whether the text is one that the templates write of its findings, others by ``wording``; that of
                a study without a report always is.
        """
        patches = self.keypatches[index] if keypatches else []
        said = ""
        if text:
            said = self._written(index, wording) if written or self._unread[index] else self.texts[index]
        return model.prefix(self.pairs.conditions[index], said, patches, wording)

    def _written(self, index: int, wording: int) -> str:
        findings, undecided = self.pairs.conditions[index].findings, self.pairs.undecided[index]
        return self._phrasing.of_study(findings, undecided, str(index), wording)


@torch.inference_mode()
def image_codes(pairs: Pairs, image_tokenizer: ImageTokenizer, batch_size: int = 32) -> torch.Tensor:
    """Returns the image tokens of every pair, int64 [pairs, tokens]."""
    parts = []
    for start in range(0, len(pairs), batch_size):
        pixels = torch.from_numpy(pairs.flat_pixels(start, start + batch_size)).to(image_tokenizer.device)
        parts.append(image_tokenizer.encode(pixels).cpu())
    return torch.cat(parts)
