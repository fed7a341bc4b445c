"""A rival of RoentGen's kind: a text-conditioned latent diffusion model over the workspace's own image tokenizer.

Latents are the tokenizer's before its codebooks, standardised by channel; the text is read by the workspace's alignment
encoder, frozen; the network is diffusers' UNet with cross-attention on words, trained to predict v (T. Salimans and
J. Ho, ICLR 2022) under a cosine schedule, with text left out of a tenth of the samples for classifier-free guidance
(J. Ho and T. Salimans, 2021). Sampling is DPM-Solver++ (C. Lu et al., 2022). What is sampled is snapped to the nearest
codes, which the decoder knows.

Shapes: B images, D latent channels, h x w cells, W words, C width of the text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor

from medsynth_core.config import Paths
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.pixels import to_images
from medsynth_core.models.tokenizers.vqgan import VQGAN
from medsynth_core.random import seed_of, stream
from medsynth_core.training.jitter import DRAWS, jittered
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.vocabulary.phrasing import Phrasing
from medsynth_core.vocabulary.vocabulary import Vocabulary

log = logging.getLogger("rivals")

Images = npt.NDArray[np.uint8]
_BATCH = 16
_DROPPED = 0.1
_MOST_WORDS = 64
_WARMUP = 100
_TIMESTEPS = 1000
_WORDINGS = 8
"""Texts a study that are written of its findings."""
_TEXTS, _AT_ONCE = 64, 256
"""Texts and images encoded at once."""


@dataclass(frozen=True)
class Texts:
    """Encoded texts: features float32 [T, W, C], and which of the words are there, bool [T, W]; the last is empty."""

    features_TWC: Tensor
    there_TW: Tensor
    places: dict[str, int]

    @classmethod
    def encode(cls, alignment: AlignmentModel, texts: Sequence[str]) -> Texts:
        """Encodes each distinct text, and the empty one."""
        distinct = [*dict.fromkeys(texts), ""]
        features = torch.zeros(len(distinct), _MOST_WORDS, alignment.config.dim)
        there = torch.zeros(len(distinct), _MOST_WORDS, dtype=torch.bool)
        with torch.inference_mode():
            for start in range(0, len(distinct) - 1, _TEXTS):
                words = alignment.encode_words(distinct[start : min(start + _TEXTS, len(distinct) - 1)])
                found = words.features_TWD[:, :_MOST_WORDS].float().cpu()
                features[start : start + len(found), : found.shape[1]] = found
                there[start : start + len(found), : found.shape[1]] = found.abs().sum(-1) > 0
        there[:, 0] = True  # attention to nothing is no number
        return cls(features.clone(), there, {text: place for place, text in enumerate(distinct)})

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns features [B, W, C] and mask [B, W] of texts."""
        places = [self.places[text] for text in texts]
        return self.features_TWC[places], self.there_TW[places]


def _wordings(pairs: Pairs, place: int, phrasing: Phrasing, written: float) -> list[str]:
    """Returns texts of a study that are written from its findings; none where only its report is read."""
    if pairs.reported[place] and not written:
        return []
    findings, undecided = pairs.conditions[place].findings, pairs.undecided[place]
    return [phrasing.of_study(findings, undecided, str(place), wording) for wording in range(_WORDINGS)]


class LatentDiffusion:
    """The model with what it stands on."""

    def __init__(self, paths: Paths, width: int, layers: int) -> None:
        self.tokenizer = VQGAN.load(paths["vqgan"])
        self.alignment = AlignmentModel.load(paths["alignment"])
        self.side = self.alignment.side
        channels = self.tokenizer.config.code_dim
        self.net = UNet2DConditionModel(
            sample_size=self.side,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=(width, 2 * width),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=self.alignment.config.dim,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        self.schedule = DDPMScheduler(_TIMESTEPS, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
        self.mean_D11, self.std_D11 = torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1)

    @property
    def parameters(self) -> int:
        """Trained ones."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    def fit(
        self, paths: Paths, seconds: float, learning_rate: float, seed: int, jitter: float, written: float, bf16: bool
    ) -> dict[str, float]:
        """Trains for so many seconds of the processor, texts' and latents' encoding included.

        Args:
            jitter: as the language model has it: films are changed, and encoded anew, in every step.
            written: so: share of the texts that are written from a study's findings, as prompts are.
        """
        began = time.process_time()
        torch.manual_seed(seed_of(seed, "rivals.diffusion"))
        pairs = read_pairs(paths, "train")
        phrasing = Phrasing(Vocabulary.load(paths["vocabulary"] / "vocabulary.json"))
        wordings = [_wordings(pairs, place, phrasing, written) for place in range(len(pairs))]
        texts = Texts.encode(self.alignment, [text for each in (pairs.texts, *wordings) for text in each])
        starts = range(0, len(pairs), _AT_ONCE)
        latents = torch.cat([self._latents(torch.from_numpy(pairs.flat_pixels(i, i + _AT_ONCE))) for i in starts])
        self.mean_D11, self.std_D11 = latents.mean((0, 2, 3))[:, None, None], latents.std((0, 2, 3))[:, None, None]
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=learning_rate, weight_decay=0.01)
        average = EMAModel(self.net.parameters(), decay=0.999, use_ema_warmup=True)
        self.net.train()
        step, loss = 0, torch.zeros(())
        spent = 0.0
        while (spent := time.process_time() - began) < seconds:
            draw = stream(seed, "rivals.step", step)
            picks = draw.integers(len(pairs), size=_BATCH)
            if jitter:
                pixels = torch.from_numpy(pairs.pixels(picks))
                clean = self._latents(jittered(pixels, draw.random((_BATCH, DRAWS)), jitter))
            else:
                clean = latents[picks]
            clean = (clean - self.mean_D11) / self.std_D11
            said = []
            for pick in picks.tolist():
                dropped, rewritten = draw.random(), draw.random() < (written if pairs.reported[pick] else 1.0)
                text = draw.choice(wordings[pick]) if rewritten else pairs.texts[pick]
                said.append("" if dropped < _DROPPED else str(text))
            features, there = texts.of(said)
            noise, times = torch.randn_like(clean), torch.randint(_TIMESTEPS, (_BATCH,))
            target = self.schedule.get_velocity(clean, noise, times)
            for group in optimiser.param_groups:  # by the share of the time that is spent, as others go by steps
                group["lr"] = learning_rate * min(1.0, (step + 1) / _WARMUP) * (1 - 0.9 * spent / seconds)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                given = self.schedule.add_noise(clean, noise, times)
                guess = self.net(given, times, features, encoder_attention_mask=there).sample
            loss = F.mse_loss(guess.float(), target)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            optimiser.step()
            average.step(self.net.parameters())
            step += 1
            if step % 200 == 0:
                log.info("diffusion: step %d, loss %.3f, %.0f of %.0f s", step, float(loss), spent, seconds)
        average.copy_to(self.net.parameters())
        self.net.eval()
        return {"steps": float(step), "seconds": time.process_time() - began, "parameters": float(self.parameters)}

    @torch.inference_mode()
    def images(self, texts: Sequence[str], steps: int, guidance: float, seed: int, batch: int = 64) -> Images:
        """Returns an image a text, uint8 [N, H, W]."""
        encoded = Texts.encode(self.alignment, texts)
        generator = torch.Generator().manual_seed(seed_of(seed, "rivals.sample"))
        made = []
        for start in range(0, len(texts), batch):
            features, there = encoded.of(texts[start : start + batch])
            nothing, none_there = encoded.of([""] * len(features))
            solver = DPMSolverMultistepScheduler.from_config(self.schedule.config)
            solver.set_timesteps(steps)
            shape = (len(features), self.net.config.in_channels, self.side, self.side)
            noisy = torch.randn(shape, generator=generator)
            for moment in solver.timesteps:
                guess = self.net(noisy, moment, features, encoder_attention_mask=there).sample
                if guidance != 1.0:
                    plain = self.net(noisy, moment, nothing, encoder_attention_mask=none_there).sample
                    guess = plain + guidance * (guess - plain)
                noisy = solver.step(guess, moment, noisy).prev_sample
            codes = self.tokenizer.quantise(noisy * self.std_D11 + self.mean_D11).codes_BLhw.flatten(1)
            made.append(to_images(self.tokenizer.decode(codes)))
        return np.concatenate(made)

    def save(self, path: Path) -> None:
        """Writes what was trained."""
        torch.save({"net": self.net.state_dict(), "mean": self.mean_D11, "std": self.std_D11}, path)

    def load(self, path: Path) -> None:
        """Reads what ``save`` wrote."""
        state = torch.load(path, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.mean_D11, self.std_D11 = state["mean"], state["std"]
        self.net.eval()

    @torch.no_grad()
    def _latents(self, pixels_B1HW: Tensor) -> Tensor:
        return self.tokenizer.encode_to_latents(pixels_B1HW).float()
