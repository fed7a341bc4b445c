"""How well images carry their own prompts: the cosine of both encodings (metrics/img_text_alignment_scores.py of
Raman1121/CheXGenBench), beside that of the same images with all other prompts, which CheXGenBench doesn't take.

A mean cosine says little by itself: two encoders may give any image and any report 0.4. What it is above other prompts
says whether the prompt was obeyed.

Shapes: N images, T distinct texts, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.evaluation.chexgenbench.measured import Measured, mean_with_interval
from medsynth_core.evaluation.chexgenbench.networks import BIOVIL_T
from medsynth_core.evaluation.chexgenbench.pictures import Pictures
from medsynth_core.evaluation.image_text import ImageTextPair
from medsynth_core.progress import Progress

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Cosines:
    """Of each image, float64 [N].

    Attributes:
        own: with its own prompt.
        others: mean over all prompts of other words; NaN where there is none.
    """

    own: Floats
    others: Floats


def cosines(pair: ImageTextPair, pictures: Pictures, batch: int, progress: Progress, name: str) -> Cosines:
    """Returns how images go with their own and with other prompts; N > 0."""
    texts = list(dict.fromkeys(pictures.prompts))
    place_of = {text: place for place, text in enumerate(texts)}
    own_N = np.array([place_of[prompt] for prompt in pictures.prompts])
    text_TD = _encoded(pair, texts, batch)
    image_ND = []
    for start in range(0, len(pictures), batch):
        images = [pictures.open(place) for place in range(start, min(start + batch, len(pictures)))]
        image_ND.append(pair.encode_images(images).double().cpu().numpy())
        progress(min(start + batch, len(pictures)), len(pictures), name)
    return compared(np.concatenate(image_ND), text_TD, own_N)


def compared(image_ND: Floats, text_TD: Floats, own_N: npt.NDArray[np.int64]) -> Cosines:
    """Returns cosines of features of norm 1.

    Args:
        own_N: place of each image's own text.
    """
    own = (image_ND * text_TD[own_N]).sum(1)
    n_others = len(text_TD) - 1
    others = (image_ND @ text_TD.sum(0) - own) / n_others if n_others else np.full(len(own), np.nan)
    return Cosines(own, others)


def alignment_figures(
    network: str, label: str | None, pictures: Pictures, found: Cosines, real: Cosines | None, n_real: int, seed: int
) -> Iterator[Measured]:
    """Yields the mean cosine beside that with other prompts, how far it is above it, and what real images get with
    their own reports.

    Args:
        real: of real images with this label, or None.
    """
    places = pictures.places(label)
    about = (BIOVIL_T, network, label, len(places), n_real)
    own, others = found.own[places], found.others[places]
    groups = [pictures.prompts[place] for place in places]
    if not len(places):
        yield Measured("alignment", *about, reason="no image")
        return
    usual = None if real is None or not len(real.own) else real
    if np.isnan(others).any():
        yield Measured("alignment", *about, *mean_with_interval(own, groups, seed), reason="all of one prompt")
        return
    yield Measured("alignment", *about, *mean_with_interval(own, groups, seed), float(others.mean()), "other prompts")
    gain = mean_with_interval(own - others, groups, seed)
    weak = None if gain[1] > 0 else "not above other prompts: the alignment says nothing"
    theirs = None if usual is None or np.isnan(usual.others).any() else float((usual.own - usual.others).mean())
    yield Measured("alignment_gain", *about, *gain, theirs, None if theirs is None else "real images", weak)
    if usual is not None:
        yield Measured("alignment_of_real", *about, float(usual.own.mean()))


def _encoded(pair: ImageTextPair, texts: Sequence[str], batch: int) -> Floats:
    parts = [pair.encode_texts(texts[start : start + batch]) for start in range(0, len(texts), batch)]
    return np.concatenate([part.double().cpu().numpy() for part in parts])
