"""The privacy stage: what the judged images give away of the training images, before they are released.

Real images are compared as the tokenizer renders them, which is all that a generator can emit: a memorised image lies
at distance 0. Held-out images are those of the split ``test``, the attacker's own those of ``val``.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.chance import share_with_interval
from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.filters import FILTERS
from medsynth_core.filters.thumbnails import Thumbnails, thumbnails
from medsynth_core.judging.calibrated import judge_digest, load_judging
from medsynth_core.judging.measured import MeasuredReport, as_report, few_images, leave_measured, measured_once
from medsynth_core.judging.released import Released
from medsynth_core.judging.training_set import TrainingSet
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import model_digests, pick_device
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.rendering import as_rendered
from medsynth_core.models.tokenizers import load_image_tokenizer
from medsynth_core.privacy.keypatches import Patched, leakage_figure
from medsynth_core.privacy.membership import membership_figures
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.privacy.settings import PrivacyParams
from medsynth_core.privacy.space import Space, distance_figures, histogram
from medsynth_core.progress import Progress
from medsynth_core.random import stream
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore
from medsynth_core.training.pairs import read_pairs

log = logging.getLogger(__name__)

_MEASURED_AS = 3
"""Raised when the same images would get other figures."""
_BATCH = 32
_SPLITS = ("test", "val")


def run(params: PrivacyParams, paths: Paths, store: ObjectStore, progress: Progress) -> MeasuredReport:
    """Measures the images that were judged, unless the store has it, and writes what was found. Whether
    they may be published is the release stage's to say. Returns figures by space and metric, ``_real`` what images get
    that copy nobody.

    Raises:
        InputError: there is no judged run, or a model is missing.
        CorruptObjectError: an object is damaged.
    """
    judged = ShardList.load(paths["deduplicate"], "deduplicate")
    shards, corpus = paths.digests.file(paths["deduplicate"] / "shards.json"), paths.digest("corpus")
    found = measured_once(
        "privacy",
        judged,
        _inputs(params, paths, [shards, corpus, paths.digest("vocabulary")]),
        store,
        lambda: _measure(params, paths, judged, corpus, store, progress),
    )
    return leave_measured("privacy", paths, found, shards, _flat(found["figures"]), _table(found["histograms"]))


def _inputs(params: PrivacyParams, paths: Paths, read: list[str]) -> list[Any]:
    """Returns what the figures follow from, with the digests of what is read."""
    return [
        _MEASURED_AS,
        params.seed,
        params.max_images,
        params.min_images,
        params.near_quantile,
        *read,
        model_digests(paths),
        judge_digest(paths["calibrate"], paths.digests),
    ]


def _measure(
    params: PrivacyParams, paths: Paths, judged: ShardList, corpus: str, store: ObjectStore, progress: Progress
) -> dict[str, Any]:
    released = Released.choose(judged, store, params.max_images)
    training = TrainingSet.load(paths["calibrate"]).thumbnails
    codebook = VisualCodebook.load(paths["alignment"] / "codebook")
    reason = _unmeasurable(params, paths, released, len(training), codebook.corpus == corpus)
    if reason is not None:
        log.warning("privacy: not measured: %s", reason)
        figure = RiskFigure("all", "all", len(released), 0, reason=reason)
        return as_report(len(released), len(training), 0, [figure], histograms={})
    sides = _Sides(params, paths, released, training, codebook, progress)
    histograms = {space.name: histogram(space) for space in sides.spaces}
    n = len(released), len(training), len(sides.real["test"])
    return as_report(*n, sides.figures(judged), histograms=histograms)


def _unmeasurable(
    params: PrivacyParams, paths: Paths, released: Released, n_training: int, is_own_corpus: bool
) -> str | None:
    """Returns why there can be no figures, or None."""
    corpus = Corpus.open(paths["corpus"])
    if not is_own_corpus:
        return "the models were trained on another corpus, of which no held-out images are at hand"
    counts = {
        "synthetic": len(released),
        "training": n_training,
        **{name: len(corpus.views(split)) for name, split in (("held-out", "test"), ("validation", "val"))},
    }
    return few_images(counts, params.min_images, "privacy.min_images")


class _Sides:
    """The sides of the comparison, read and rendered."""

    def __init__(
        self,
        params: PrivacyParams,
        paths: Paths,
        released: Released,
        training: Thumbnails,
        codebook: VisualCodebook,
        progress: Progress,
    ) -> None:
        self.params = params
        device = pick_device(params.device)
        image_tokenizer = load_image_tokenizer(paths["vqgan"]).to(device)
        alignment = AlignmentModel.load(paths["alignment"]).to(device)
        self._pairs = {split: read_pairs(paths, split) for split in _SPLITS}
        self.real = {
            split: as_rendered(image_tokenizer, pairs.corpus.images(pairs.rows)) for split, pairs in self._pairs.items()
        }
        self._synthetic, self._rows = released.read(_BATCH, progress), released.rows
        self._training, self._codebook = training, codebook
        used = sorted({entry for row in self._rows for entry in row["keypatch_ids"]})
        cut_from = np.unique(codebook.rows_E.numpy()[used])
        sources = as_rendered(image_tokenizer, Corpus.open(paths["corpus"]).images(cut_from))
        self._sources = dict(zip(cut_from.tolist(), sources, strict=True))
        sides = (self._synthetic, self.real["test"], self.real["val"])
        judging = load_judging(paths["calibrate"], alignment, self._synthetic.shape[1])
        small = [_coordinates(thumbnails(side)) for side in sides]
        features = [judging.look(side)[1] for side in sides]
        self.spaces = (
            Space("pixels", "manhattan", small[0], _coordinates(training), *small[1:]),
            Space("judge", "euclidean", features[0], judging.training.features, *features[1:]),
        )

    def figures(self, judged: ShardList) -> list[RiskFigure]:
        """Returns all figures."""
        seed = self.params.seed
        found = [self._near_copies(judged)]
        for space in self.spaces:
            found += [*distance_figures(space, seed), *membership_figures(space, seed)]
        return [*found, self._leakage(seed)]

    def _near_copies(self, judged: ShardList) -> RiskFigure:
        """Returns the share of images rejected as near-copies of training images, of those that came so far; the
        parent's aren't counted again."""
        enabled, rejected = judged.quality["enabled"], judged.counts.rejected
        running = [each for each in FILTERS if each.name in enabled]
        place = next((place for place, each in enumerate(running) if each.training_copies), len(running))
        later = [reason.name for each in running[place:] for reason in each.reasons]
        n = judged.counts.accepted + sum(rejected.get(reason, 0) for reason in later)
        about = ("near_copies", "pixels", n, len(self.real["test"]))
        if place == len(running) or n == 0:
            return RiskFigure(*about, reason="no filter looked for copies of training images")
        guard = running[place].training_copies
        assert guard is not None
        copies = np.arange(n) < rejected.get(guard.reason, 0)
        theirs = guard.distances(self.real["test"], self._training) <= judged.bounds[guard.bound]
        return RiskFigure(*about, *share_with_interval(copies), *share_with_interval(theirs))

    def _leakage(self, seed: int) -> RiskFigure:
        """Returns the keypatch leakage; real images get the keypatches of a synthetic one with the same findings."""
        entries: dict[frozenset[str], list[list[int]]] = defaultdict(list)
        for row in self._rows:
            entries[frozenset(row["pathology"])].append(row["keypatch_ids"])
        draw = stream(seed, "privacy.real_keypatches")

        def given(split: str) -> Patched:
            shown = [frozenset(condition.pathology) for condition in self._pairs[split].conditions]
            places = [place for place, findings in enumerate(shown) if findings in entries]
            lists = [entries[shown[place]] for place in places]
            return Patched(self.real[split][places], [each[int(draw.integers(len(each)))] for each in lists])

        return leakage_figure(
            Patched(self._synthetic, [row["keypatch_ids"] for row in self._rows]),
            given("test"),
            given("val"),
            self._codebook,
            self._sources,
            self.params.near_quantile,
            seed,
        )


def _coordinates(small: Thumbnails) -> npt.NDArray[np.float32]:
    """Returns thumbnails of mean 0 whose manhattan distance is that of ``filters.thumbnails``."""
    cells = small.astype(np.float32)
    centred: npt.NDArray[np.float32] = (cells - cells.mean(1, keepdims=True)) / np.float32(255 * small.shape[1])
    return centred


def _flat(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    flat: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["value"] is not None and row["real"] is not None:
            of_space = flat.setdefault(row["space"], {})
            of_space |= {row["metric"]: row["value"], f"{row['metric']}_real": row["real"]}
    return flat


def _table(histograms: dict[str, dict[str, list[float]]]) -> str:
    """Returns the spread of distances, for ``dvc plots``."""
    rows = [
        f"{space},{side},{edge},{share}\n"
        for space, spread in histograms.items()
        for side in ("synthetic", "held_out")
        for edge, share in zip(spread["edges"], spread[side], strict=False)
    ]
    return "".join(["space,images,distance,share\n", *rows])
