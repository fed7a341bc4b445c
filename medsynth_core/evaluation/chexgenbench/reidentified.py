"""Whether synthetic images show the patients of training images: scores and distances of pairs
(metrics/privacy_metrics.py of Raman1121/CheXGenBench).

Pairs are found in one of two ways. By *prompt*, as CheXGenBench does: images made of the prompt of a training study
against that study's film, ten of each of 2,000 prompts; the control is the same images against other studies' films.
By *nearest*, where images weren't made of training prompts: each against the training image that is nearest to it in
the features of the role of RAD-DINO; the control is held-out images against those nearest to them.

Distances are root mean squares of differences: of grey levels of images of 512 x 512, and of features. CheXGenBench's
own pixel distances differ: there the difference of two bytes wraps around, and of ten images the last one's is taken
ten times.

Shapes: N images, F features, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.metrics import pairwise_distances_argmin
from torch import nn

from medsynth_core.chance import share_with_interval
from medsynth_core.evaluation.chexgenbench.measured import Measured, mean_with_interval
from medsynth_core.evaluation.chexgenbench.networks import REID
from medsynth_core.evaluation.chexgenbench.pictures import Pictures, Places, as_tensor, resized, stacked
from medsynth_core.evaluation.chexgenbench.protocol import PRIVACY_SIDE
from medsynth_core.evaluation.reidentification import Reidentifier
from medsynth_core.progress import Progress

Floats = npt.NDArray[np.floating[Any]]
PROMPT, NEAREST = "prompt", "nearest"
_AT = (PRIVACY_SIDE, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Encoded:
    """A side as the two networks see it.

    Attributes:
        features: of the role of RAD-DINO, float32 [N, F]; of no width where nobody plays it.
        signs: of the re-identification network, float32 [N, S].
    """

    pictures: Pictures
    features: Floats
    signs: torch.Tensor


@dataclass(frozen=True)
class Pairs:
    """What each pair of a synthetic and a real image came to, float64 [P]; ``latents`` are NaN without features.

    Attributes:
        real, prompts: what the rows of the table are.
    """

    real: Sequence[str]
    prompts: Sequence[str]
    scores: Floats
    pixels: Floats
    latents: Floats

    @property
    def keys(self) -> list[tuple[str, str]]:
        return list(zip(self.real, self.prompts, strict=True))


@torch.inference_mode()
def encode(
    pictures: Pictures,
    net: nn.Module | None,
    side: int | None,
    reid: Reidentifier,
    device: torch.device,
    batch: int,
    progress: Progress,
) -> Encoded:
    """Returns what both networks make of images of 512 x 512.

    Args:
        net: of the role of RAD-DINO.
        side: that ``net`` is given them in; None: as they are.
    """
    own = [] if side is None else [(side, Image.Resampling.BILINEAR)]
    small = [(reid.side, Image.Resampling.BILINEAR)]
    features, signs = list[Floats](), list[torch.Tensor]()
    for start in range(0, len(pictures), batch):
        stop = min(start + batch, len(pictures))
        squares = [resized(pictures.open(place), [_AT]) for place in range(start, stop)]
        if net is not None:
            given = stacked([resized(square, own) for square in squares])
            features.append(net(as_tensor(given, device)).float().cpu().numpy())
        seen = stacked([resized(square, small) for square in squares])
        signs.append(reid.encode(as_tensor(seen, device)).float().cpu())
        progress(stop, len(pictures), "re-identification")
    empty = np.zeros((len(pictures), 0), dtype=np.float32)
    return Encoded(pictures, np.concatenate(features) if features else empty, torch.cat(signs))


def by_prompt(synthetic: Pictures, training: Pictures, shift: int = 0) -> Places:
    """Returns the place of the training film of each image's prompt.

    Args:
        shift: how many places farther another study's is taken instead.
    """
    place_of = {prompt: place for place, prompt in reversed(list(enumerate(training.prompts)))}
    own = np.array([place_of[prompt] for prompt in synthetic.prompts], dtype=np.int64)
    return (own + shift) % len(training)


def nearest(side: Encoded, training: Encoded) -> Places:
    """Returns the place of the training image nearest to each image."""
    found: Places = pairwise_distances_argmin(side.features, training.features).astype(np.int64)
    return found


@torch.inference_mode()
def paired(side: Encoded, training: Encoded, of_side: Places, reid: Reidentifier, device: torch.device) -> Pairs:
    """Returns what pairs came to.

    Args:
        of_side: place of the training image that each image is held against.
    """
    theirs = training.signs[torch.from_numpy(of_side)]
    scores = reid.scores(side.signs.to(device), theirs.to(device)).double().cpu().numpy()
    latents = np.full(len(of_side), np.nan)
    if side.features.shape[1]:
        latents = np.sqrt(((side.features - training.features[of_side]).astype(np.float64) ** 2).mean(1))
    pixels = np.array(
        [
            np.sqrt(((_square(side.pictures, place) - _square(training.pictures, int(other))) ** 2).mean())
            for place, other in enumerate(of_side)
        ]
    )
    real = [training.pictures.names[place] for place in of_side]
    return Pairs(real, side.pictures.prompts, scores, pixels, latents)


def privacy_rows(pairs: Pairs) -> list[dict[str, str | float]]:
    """Returns a row a film and prompt: mean and extreme of the pairs' scores and distances, by CheXGenBench's names."""
    keys, rows = pairs.keys, list[dict[str, str | float]]()
    places: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    for (real, prompt), at in places.items():
        scores, pixels, latents = (values[at] for values in (pairs.scores, pairs.pixels, pairs.latents))
        rows.append(
            {
                "Real Path": real,
                "Prompt": prompt,
                "Mean_reid_scores": float(scores.mean()),
                "Max_reid_scores": float(scores.max()),
                "Mean_pixel_distance": float(pixels.mean()),
                "Min_pixel_distance": float(pixels.min()),
                "Mean_latent_distance": float(latents.mean()),
                "Min_latent_distance": float(latents.min()),
            }
        )
    return rows


def privacy_figures(
    network: str,
    pairs: Pairs,
    control: Pairs | None,
    control_of: str,
    same_patient: float | None,
    n_real: int,
    seed: int,
) -> Iterator[Measured]:
    """Yields means over the rows of ``privacy_rows``, and the share of rows with a pair that the network takes for one
    patient, where it has a bound; beside what the control's rows get."""
    rows, usual = privacy_rows(pairs), privacy_rows(control) if control is not None else []
    about = (REID, network, None, len(rows), n_real)
    groups = [str(row["Prompt"]) for row in rows]

    def values(of: Sequence[dict[str, str | float]], column: str) -> Floats:
        return np.array([row[column] for row in of], dtype=np.float64)

    for column in ("Mean_reid_scores", "Max_reid_scores", "Min_pixel_distance", "Min_latent_distance"):
        ours = values(rows, column)
        if np.isnan(ours).any():
            yield Measured(column.lower(), *about, reason="no network plays RAD-DINO's role")
            continue
        theirs = float(values(usual, column).mean()) if usual else None
        yield Measured(
            column.lower(), *about, *mean_with_interval(ours, groups, seed), theirs, control_of if usual else None
        )
    if same_patient is not None:
        found = values(rows, "Max_reid_scores") > same_patient
        theirs = float((values(usual, "Max_reid_scores") > same_patient).mean()) if usual else None
        yield Measured("reidentified", *about, *share_with_interval(found), theirs, control_of if usual else None)


def _square(pictures: Pictures, place: int) -> Floats:
    return np.asarray(resized(pictures.open(place), [_AT]), dtype=np.float64)
