"""Two spaces that nobody trained on labels, and the range that real films take up in each.

Training originals say what is usual; originals that no model learnt from say how far from that real films lie: the
range is what 95 % of them reach.

Shapes: N images, M training images, F features, P principal axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from medsynth_core.fidelity.spectrum import fidelity_coordinates
from medsynth_core.filters.thumbnails import Images, thumbnails
from medsynth_core.models.texture import TextureEncoder

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
SPACES = ("spectrum", "texture")
WITHIN = 0.95
"""Share of real films that lie within their range."""
_LEAST_DB = {"spectrum": 2.0, "texture": 1.0}
"""Least deviation that coordinates are divided by. A corpus that is all alike varies by tenths of a decibel, which no
eye sees; textures are means over whole images, so they vary half as much as a band's power."""
_FORGIVEN = {"spectrum": 1.0, "texture": 0.0}
"""Distance that is always within the range: of spectra, the least deviation along each axis."""
_NEIGHBOUR = 5
_AXES = 32
_BATCH = 64


@dataclass(frozen=True)
class Range:
    """How far from what is usual real films lie in one space.

    Attributes:
        distances: of images uint8 [N, H, W], float64 [N].
        bound: distance that ``WITHIN`` of real films don't exceed.
    """

    space: str
    distances: Callable[[Images], Floats]
    bound: float

    def holds(self, images_u8: Images) -> Bools:
        """Returns which images lie within the range, bool [N]."""
        return self.distances(images_u8) <= self.bound


def real_ranges(training_u8: Images, others_u8: Images, device: torch.device) -> tuple[Range, ...]:
    """Returns the range of real films in each of ``SPACES``.

    Args:
        training_u8: originals, more than 5.
        others_u8: originals that no model learnt from.
    """
    found = _usual_spectrum(training_u8), _usual_texture(training_u8, device)
    return tuple(
        Range(space, distances, max(_FORGIVEN[space], float(np.quantile(distances(others_u8), WITHIN))))
        for space, distances in zip(SPACES, found, strict=True)
    )


def least_share(ranges: tuple[Range, ...], images_u8: Images) -> float:
    """Returns the fidelity of images: the share within the range of real films, in the space where it is smaller."""
    return min(float(each.holds(images_u8).mean()) for each in ranges)


def _usual_spectrum(training_u8: Images) -> Callable[[Images], Floats]:
    """Returns distances along the principal axes of the training originals, each in its deviation (Mahalanobis').

    Axes matter: in a corpus of sharp and soft films every band varies by itself, so that a film halved and brought back
    has no band that is unusual; but in a soft film all fine bands fall together.
    """
    known_MF = fidelity_coordinates(training_u8)
    mean_F, (variance_F, axes_FF) = known_MF.mean(0), np.linalg.eigh(np.cov(known_MF, rowvar=False))
    deviation_F = np.sqrt(variance_F.clip(min=_LEAST_DB["spectrum"] ** 2))

    def distances(images_u8: Images) -> Floats:
        along_NF = (fidelity_coordinates(images_u8) - mean_F) @ axes_FF / deviation_F
        far_N: Floats = np.sqrt((along_NF**2).mean(1))
        return far_N

    return distances


def _usual_texture(training_u8: Images, device: torch.device) -> Callable[[Images], Floats]:
    """Returns distances to the 5th nearest training original in ``texture_places``."""
    places = texture_places(training_u8, device)
    known = NearestNeighbors(n_neighbors=_NEIGHBOUR, algorithm="brute").fit(places(training_u8))

    def distances(images_u8: Images) -> Floats:
        far_N: Floats = known.kneighbors(places(images_u8))[0][:, -1]
        return far_N

    return distances


def texture_places(training_u8: Images, device: torch.device) -> Callable[[Images], Floats]:
    """Returns what places images on the principal axes of the training originals' standardised textures, [N, P]."""
    net = TextureEncoder().to(device)
    known_MF = _textures(net, training_u8)
    mean_F, deviation_F = known_MF.mean(0), known_MF.std(0).clip(min=_LEAST_DB["texture"])
    axes = PCA(min(_AXES, *known_MF.shape), svd_solver="full").fit((known_MF - mean_F) / deviation_F)

    def places(images_u8: Images) -> Floats:
        placed_NP: Floats = axes.transform((_textures(net, images_u8) - mean_F) / deviation_F)
        return placed_NP

    return places


def layout_places(images_u8: Images) -> Floats:
    """Returns thumbnails without their mean, float64 [N, 256]: where a chest's parts lie, and how large they are."""
    thumbs = thumbnails(images_u8).astype(np.float64)
    placed_NF: Floats = thumbs - thumbs.mean(1, keepdims=True)
    return placed_NF


@torch.inference_mode()
def _textures(net: TextureEncoder, images_u8: Images) -> Floats:
    device = net.weights_0.device
    parts = [net(torch.from_numpy(images_u8[at : at + _BATCH]).to(device)) for at in range(0, len(images_u8), _BATCH)]
    textures: Floats = torch.cat(parts).cpu().numpy().astype(np.float64)
    return textures
