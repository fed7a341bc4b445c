"""What a filter is: one criterion by which images are rejected, with all that the rest of the house says of it.

A filter is one module of this package, with one instance of a subclass of ``Filter`` as ``FILTER``. Its settings in
params.yaml, its columns in the manifest, its words on the page and in the card, what it compares with and how it judges
are all stated there; nothing else names it.

Shapes: N images, H x W pixels, L labels, F features, G cells a side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from medsynth_core.config.section import Section
from medsynth_core.errors import StateError
from medsynth_core.filters.fingerprints import Copy, Fingerprints
from medsynth_core.filters.thumbnails import Images, Thumbnails
from medsynth_core.vocabulary.labels import Label

Floats = npt.NDArray[np.floating[Any]]
Arrays = Mapping[str, npt.NDArray[Any]]
"""What a filter fitted, by name; kept as safetensors."""
Scores = Mapping[str, npt.NDArray[Any]]
"""By manifest column, [N]; what isn't a column of the filter is a hint to its own ``judge``."""

OF_ORIGINALS = " of originals"
"""Behind a column's name: what held-out images score as they are, not as the tokenizer renders them."""

S = TypeVar("S", bound=Section)
M = TypeVar("M")


class Prompt(Protocol):
    """What an image was asked to show."""

    @property
    def findings(self) -> Sequence[Mapping[str, Any]]:
        """Each with pathology, anatomy, side and severity."""

    @property
    def query(self) -> str:
        """The findings in words."""

    @property
    def view(self) -> str | None:
        """frontal or lateral, None where it is unknown."""


class Context(Protocol):
    """What is known of the images at hand beside their pixels; each is computed when it is first asked for."""

    @property
    def thumbnails(self) -> Thumbnails:
        """uint8 [N, 256]."""

    @property
    def labels(self) -> Sequence[Label]:
        """L labels that the labelling judge knows."""

    def look(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The labelling judge's calibrated logits [N, L], and what it sees, standardised features [N, F]."""

    def organs(self) -> npt.NDArray[np.int64] | None:
        """The organ in each cell, numbers of ``corpus.records.ORGANS``, [N, G, G]; None without a segmenter."""

    def agreement(self) -> npt.NDArray[np.float32]:
        """Of each image with its prompt's findings by the alignment model, [N] in [-1, 1]."""

    @property
    def training(self) -> Training:
        """The images that the generator learnt from."""


class Training(Protocol):
    """The training images as the tokenizer renders them, which is all that a generator can emit."""

    @property
    def thumbnails(self) -> Thumbnails:
        """uint8 [R, 256]."""

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """Of the labelling judge, standardised, [R, F]."""


class Reference(Training, Protocol):
    """Training images while filters are fitted: their pixels are at hand too."""

    @property
    def images_u8(self) -> Images:
        """uint8 [R, H, W], on disk where they are many."""

    def batches(self) -> Iterator[tuple[Images, Sequence[Prompt], Context]]:
        """Yields all images in order, some at a time."""


@dataclass(frozen=True)
class Column:
    """A score in the manifest.

    Attributes:
        name: ``score_...``.
        description: in the manifest's schema.
        title: on the page.
        bound: its name among the bounds of a release; None where the bound is a setting.
        setting: the filter's setting that is the bound.
        digits: after the point, on the page.
        may_lack: whether some images have no such score.
        orders: in which the page's gallery can be sorted by it, ("down" or "up", words); such a score stands below
            every picture.
        least: words before a slider that asks for at least so much; none without.
    """

    name: str
    description: str
    title: str
    bound: str | None = None
    digits: int = 2
    may_lack: bool = False
    setting: str | None = None
    orders: tuple[tuple[str, str], ...] = ()
    least: str | None = None


@dataclass(frozen=True)
class Reason:
    """Why an image is rejected.

    Attributes:
        name: ``filter:what``, as the manifest has it.
        words: on the page.
        column: the score that it goes by.
    """

    name: str
    words: str
    column: str


@dataclass(frozen=True)
class TrainingCopies:
    """How a filter tells copies of training images, for what is said and measured of privacy.

    Attributes:
        reason: for which it rejects them.
        bound: name of the distance at which an image is one.
        distances: of images uint8 [N, H, W] to the nearest training image, by these thumbnails, float32 [N].
    """

    reason: str
    bound: str
    distances: Callable[[Images, Thumbnails], npt.NDArray[np.float32]]


class Filter(Generic[S, M]):
    """One criterion. Subclasses have no state: what is fitted is an argument.

    Attributes:
        name: in params.yaml and as the first half of its reasons, ``name:what``.
        version: raised when the same image, model and settings may get another verdict.
        cost: milliseconds of a core an image of 64 x 64 pixels; filters run in this order, and an image that one
            rejects isn't shown to the next.
        on: whether it is enabled by default.
        training_copies: of a filter that keeps copies of training images out.
        has_floor: whether its bounds also go by what originals score (``OF_ORIGINALS``): what a tokenizer blurs is as
            usual as it is bad, so a quantile of its renderings can't tell.
        compares: whether it also compares images with each other (``judge_together``, ``copies``).
        settings: its section ``quality.<name>``.
        columns: of the manifest that it fills.
        reasons: for which it rejects.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    cost: ClassVar[float]
    on: ClassVar[bool] = True
    compares: ClassVar[bool] = False
    has_floor: ClassVar[bool] = False
    training_copies: ClassVar[TrainingCopies | None] = None
    settings: type[S]
    columns: ClassVar[tuple[Column, ...]]
    reasons: ClassVar[tuple[Reason, ...]]

    def fit(self, reference: Reference) -> Arrays:
        """Returns what images are compared with beside the training images themselves."""
        return {}

    def model(self, fitted: Arrays, training: Training) -> M:
        """Returns what ``measure`` compares with, made once from what ``fit`` returned.

        Raises:
            KeyError, ValueError: ``fitted`` isn't of this filter.
        """
        return None  # type: ignore[return-value]

    def measure(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: M) -> Scores:
        """Returns the scores of images uint8 [N, H, W], NaN where one doesn't apply."""
        raise NotImplementedError

    def calibrate(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: M) -> Scores:
        """Returns what held-out images score, of which bounds are taken."""
        return self.measure(images_u8, prompts, context, model)

    def bounds(self, scores: Scores, settings: S, margin: float) -> dict[str, float]:
        """Returns the bounds by name, from the scores of held-out images as the tokenizer renders them; where
        ``has_floor``, of originals too, if they were measured.

        Args:
            margin: ``quality.margin``.
        """
        raise NotImplementedError

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: S) -> list[str | None]:
        """Returns the reason for which each image is rejected; None where it isn't."""
        raise NotImplementedError

    def judge_together(
        self, fingerprints: Fingerprints, accepted: npt.NDArray[np.bool_], bounds: Mapping[str, float]
    ) -> tuple[Scores, dict[int, Copy]]:
        """Returns scores of the images of a shard by comparison with each other, NaN where there are none, and the rows
        to reject; only accepted images are compared."""
        return {}, {}

    def copies(self, fingerprints: Fingerprints, bounds: Mapping[str, float], n_kept: int) -> dict[int, Copy]:
        """Returns the rows of a whole release that are to be rejected; the first ``n_kept`` stay whatever they are."""
        return {}

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        """Returns what the dataset card says of it, from a release's record."""
        raise NotImplementedError


NO_LIMIT = float(np.finfo(np.float32).max)
"""Bound of a filter, under its name, that had no held-out images to take one of, or no model to judge with: the card
says nothing of it."""


def quantile_of(name: str, scores: Floats, quantile: float, without: float, margin: float = 0.0) -> float:
    """Returns a quantile of what held-out images score, farther from their median by ``margin`` times the distance;
    ``without`` when the corpus held nothing out.

    Raises:
        StateError: a score isn't finite, so a model is broken.
    """
    broken = int((~np.isfinite(scores)).sum())
    if broken:
        raise StateError(f"{broken} of {len(scores)} held-out images have a {name} that isn't finite; train again")
    if not len(scores):
        return without
    bound, median = np.quantile(scores, [quantile, 0.5])
    return float(bound + margin * (bound - median))


def percent(share: float) -> str:
    """Returns a share as the card says it."""
    return f"{share:.1%}"
