"""The sides of a comparison: images in random order with their pathologies, read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.random import stream
from medsynth_core.release.reader import Release
from medsynth_core.training.pairs import read_pairs
from medsynth_core.vocabulary.labels import Findings, anatomy_labels, pathology_labels

NO_FINDING = "no finding"
"""Keeps the choice of images apart from other random streams of the same seed."""
Images = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Images of one side.

    Attributes:
        findings: of each image, as prompted or mined.
        groups: prompt or patient of each image.
        read: returns the images of some places, uint8 [n, H, W].
    """

    findings: Sequence[Findings]
    groups: Sequence[str]
    read: Callable[[Places], Images]

    def __len__(self) -> int:
        return len(self.findings)

    @cached_property
    def pathologies(self) -> list[frozenset[str]]:
        """Of each image; ``NO_FINDING`` where there is none."""
        return [frozenset([finding["pathology"] for finding in each] or [NO_FINDING]) for each in self.findings]

    def shows(self, terms: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Returns whether each image has each pathology, or a finding in each place, on any side; [N, T]."""
        shown = [{term for term, _ in pathology_labels(each) | anatomy_labels(each)} for each in self.findings]
        return np.array([[term in each for term in terms] for each in shown], dtype=bool).reshape(len(self), len(terms))

    def batches(self, size: int) -> Iterator[Images]:
        """Yields all images in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.read(np.arange(start, min(start + size, len(self))))

    def places(self, label: str | None) -> Places:
        """Returns the places of the images with a pathology, in order; of all when None."""
        return np.array(
            [place for place, shown in enumerate(self.pathologies) if label is None or label in shown], dtype=np.int64
        )


def synthetic_images(release: Release, most: int, seed: int) -> ImageSet:
    """Returns up to ``most`` accepted images, with what was prompted."""
    images = release.dataset()
    prompted = release.manifest(["labels", "prompt_id"]).to_pylist()
    chosen = _chosen(len(prompted), most, seed)

    def read(places: Places) -> Images:
        items = images.__getitems__(chosen[places].tolist())
        stacked: Images = torch.cat([item["image"] for item in items]).numpy()
        return stacked

    rows = [prompted[index] for index in chosen]
    return ImageSet([row["labels"] for row in rows], [row["prompt_id"] for row in rows], read)


def real_images(paths: Paths, split: str, views: set[str], most: int, seed: int) -> ImageSet:
    """Returns up to ``most`` images of a split in these views (frontal, lateral), with what mining saw in their
    reports; none when the corpus has no images.

    Raises:
        InputError: the labels don't belong to this corpus.
    """
    if not len(Corpus.open(paths["corpus"]).views(split)):
        return ImageSet([], [], lambda places: np.empty((0, 0, 0), dtype=np.uint8))
    pairs = read_pairs(paths, split)
    fitting = np.array(
        [row for row, condition in enumerate(pairs.conditions) if condition.view in views], dtype=np.int64
    )
    chosen = fitting[_chosen(len(fitting), most, seed)]
    return ImageSet(
        [pairs.conditions[index].findings for index in chosen],
        [pairs.patients[index] for index in chosen],
        lambda places: pairs.corpus.images(pairs.rows[chosen[places]]),
    )


def _chosen(n: int, most: int, seed: int) -> Places:
    return stream(seed, "evaluation.images").permutation(n)[:most]
