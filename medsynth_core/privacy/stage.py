"""The privacy stage: what the judged images give away of the training images, before they are released."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medsynth_core.chance import share_with_interval
from medsynth_core.config import Paths
from medsynth_core.config.entries import inputs_of, open_entry
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.filters import FILTERS
from medsynth_core.judging.calibrated import judge_digest
from medsynth_core.judging.measured import MeasuredReport, as_report, few_images, leave_measured, measured_once
from medsynth_core.judging.released import Released
from medsynth_core.judging.training_set import TrainingSet
from medsynth_core.models.artifact import model_digests
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.rendering import as_rendered
from medsynth_core.privacy.keypatches import Patched, leakage_figure
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.privacy.settings import ATTACKERS, PrivacyParams
from medsynth_core.privacy.sides import Films, Sides
from medsynth_core.privacy.space import histogram
from medsynth_core.progress import Progress
from medsynth_core.random import stream
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore

log = logging.getLogger(__name__)

_MEASURED_AS = 4
"""Raised when the same images would get other figures."""
_BATCH = 32


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
        [inputs_of(ATTACKERS, entry, params, paths) for entry in params.attackers],
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
    sides = Sides.read(params, paths, released.read(_BATCH, progress), codebook, progress)
    attacks = [open_entry(ATTACKERS, entry, sides) for entry in params.attackers]
    found = [_near_copies(sides, judged)]
    for attack in attacks:
        found += attack.figures
    histograms = {attack.space.name: histogram(attack.space) for attack in attacks if attack.space is not None}
    n = len(released), len(training), len(sides.held_out)
    return as_report(*n, [*found, _leakage(sides, released.rows)], histograms=histograms)


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


def _near_copies(sides: Sides, judged: ShardList) -> RiskFigure:
    """Returns the share of images rejected as near-copies of training images, of those that came so far; the parent's
    aren't counted again."""
    enabled, rejected = judged.quality["enabled"], judged.counts.rejected
    running = [each for each in FILTERS if each.name in enabled]
    place = next((place for place, each in enumerate(running) if each.training_copies), len(running))
    later = [reason.name for each in running[place:] for reason in each.reasons]
    n = judged.counts.accepted + sum(rejected.get(reason, 0) for reason in later)
    about = ("near_copies", "pixels", n, len(sides.held_out))
    if place == len(running) or n == 0:
        return RiskFigure(*about, reason="no filter looked for copies of training images")
    guard = running[place].training_copies
    assert guard is not None
    copies = np.arange(n) < rejected.get(guard.reason, 0)
    theirs = guard.distances(sides.held_out.images_u8, sides.known.thumbnails) <= judged.bounds[guard.bound]
    return RiskFigure(*about, *share_with_interval(copies), *share_with_interval(theirs, sides.held_out.patients))


def _leakage(sides: Sides, rows: Sequence[Mapping[str, Any]]) -> RiskFigure:
    """Returns the keypatch leakage; real images get the keypatches of a synthetic one with the same findings."""
    entries: dict[frozenset[str], list[list[int]]] = defaultdict(list)
    for row in rows:
        entries[frozenset(row["pathology"])].append(row["keypatch_ids"])
    seed, codebook = sides.params.seed, sides.codebook
    draw = stream(seed, "privacy.real_keypatches")

    def given(films: Films) -> Patched:
        shown = [frozenset(condition.pathology) for condition in films.pairs.conditions]
        places = [place for place, findings in enumerate(shown) if findings in entries]
        lists = [entries[shown[place]] for place in places]
        return Patched(films.images_u8[places], [each[int(draw.integers(len(each)))] for each in lists])

    used = sorted({entry for row in rows for entry in row["keypatch_ids"]})
    cut_from = np.unique(codebook.rows_E.numpy()[used])
    sources = as_rendered(sides.image_tokenizer, sides.training.pairs.corpus.images(cut_from))
    return leakage_figure(
        Patched(sides.synthetic, [row["keypatch_ids"] for row in rows]),
        given(sides.held_out),
        given(sides.reference),
        codebook,
        dict(zip(cut_from.tolist(), sources, strict=True)),
        sides.params.near_quantile,
        seed,
    )


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
