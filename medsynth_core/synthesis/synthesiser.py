"""The synthesiser: the trained models behind one verb, prompts in and images out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.config import Config, Paths
from medsynth_core.corpus.images import to_pixels, to_u8
from medsynth_core.errors import InputError
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import model_digest, pick_device
from medsynth_core.models.codebook import Keypatch, VisualCodebook
from medsynth_core.models.llm import ImageLanguageModel
from medsynth_core.models.text import condition_text
from medsynth_core.models.vqgan import VQGAN
from medsynth_core.synthesis.engine import decode_image_tokens
from medsynth_core.synthesis.identity import uniforms
from medsynth_core.synthesis.inputs import PromptRow

MODEL_NAMES = ("vqgan", "alignment", "llm")


def models_folder(config: Config, paths: Paths) -> Path:
    """Returns where the models are: ``models.path``, or the workspace's own."""
    if config.models.path is None:
        return paths.models
    return (paths.root / Path(config.models.path).expanduser()).resolve()


def model_digests(config: Config, paths: Paths) -> dict[str, str]:
    """Returns the digests of the three models by name.

    Raises:
        InputError: one is missing.
    """
    folder = models_folder(config, paths)
    return {name: model_digest(folder / name) for name in MODEL_NAMES}


@dataclass(frozen=True)
class Synthesiser:
    """Loaded models on one device."""

    config: Config
    vqgan: VQGAN
    alignment: AlignmentModel
    codebook: VisualCodebook
    llm: ImageLanguageModel

    @classmethod
    def load(cls, config: Config, paths: Paths) -> Synthesiser:
        """Returns the synthesiser of a workspace.

        Raises:
            InputError: a model is missing, or the three don't belong together.
        """
        folder = models_folder(config, paths)
        device = pick_device(config.device)
        vqgan = VQGAN.load(folder / "vqgan").to(device)
        alignment = AlignmentModel.load(folder / "alignment").to(device)
        codebook = VisualCodebook.load(folder / "alignment" / "codebook")
        llm = ImageLanguageModel.load(folder / "llm").to(device)
        if llm.layout.codes != vqgan.config.codes or llm.layout.cells != alignment.side**2:
            raise InputError(
                f"{folder}: the llm was trained for {llm.layout.codes} codes and {llm.layout.cells} cells, but the "
                f"VQ-GAN has {vqgan.config.codes} codes and the alignment {alignment.side**2} cells; retrain the llm"
            )
        return cls(config, vqgan, alignment, codebook, llm)

    def keypatches(self, prompts: Sequence[PromptRow]) -> list[list[Keypatch]]:
        """Returns the keypatches of each prompt, best first."""
        settings = self.llm.config
        queries = [p.query for p in prompts]
        if settings.keypatch_choice == "random":
            return self.codebook.random_keypatches(queries, settings.keypatches)
        return self.codebook.keypatches(self.alignment, queries, settings.keypatches)

    def images(
        self, image_ids: Sequence[str], prompts: Sequence[PromptRow], keypatches: Sequence[Sequence[Keypatch]]
    ) -> npt.NDArray[np.uint8]:
        """Returns one image a prompt, uint8 [N, H, W]; image i depends on image_ids[i] and prompt i alone, up to
        floating-point rounding between batch shapes."""
        settings = self.config.synthesis
        side = self.alignment.side
        done = []
        for start in range(0, len(prompts), settings.batch_size):
            batch = slice(start, start + settings.batch_size)
            codes_BT = decode_image_tokens(
                self.llm,
                [
                    self.llm.prefix(condition_text(self.llm.config.condition, p.text, p.findings), p.view, k)
                    for p, k in zip(prompts[batch], keypatches[batch], strict=True)
                ],
                [self.llm.empty_prefix(p.view) for p in prompts[batch]],
                torch.from_numpy(uniforms(image_ids[batch], side * side)),
                settings,
            )
            pixels = self.vqgan.decode_codes(codes_BT.view(-1, side, side))
            done.append(to_u8(pixels[:, 0].float().cpu().numpy()))
        return np.concatenate(done)

    def agreement(self, images_u8: npt.NDArray[np.uint8], texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns prompt-image agreement, float32 [N] in [-1, 1]."""
        pixels = torch.from_numpy(to_pixels(images_u8))[:, None].to(self.alignment.device)
        scores: npt.NDArray[np.float32] = self.alignment.agreement(pixels, texts).cpu().numpy()
        return scores
