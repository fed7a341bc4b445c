"""The stage ``calibrate``: what the filters compare with, and what real held-out images score.

Both sides are images as the tokenizer renders them, which is all that a generator can emit: rendered training images
are what it may have memorised, and the usual anatomy and texture; scores of rendered held-out images become bounds.
Some filters also have a floor by what held-out originals score. All filters are calibrated, enabled or not, so that to
enable one needs no training.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.config import Paths
from medsynth_core.filters import FILTERS
from medsynth_core.filters.spec import OF_ORIGINALS, Arrays
from medsynth_core.filters.thumbnails import Images, thumbnails
from medsynth_core.judging.calibrated import JUDGE, save_filter
from medsynth_core.judging.networks import Judging, glimpses, see
from medsynth_core.judging.reference import RenderedReference
from medsynth_core.judging.training_set import TrainingSet
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import pick_device
from medsynth_core.models.judge import Judge
from medsynth_core.models.rendering import rendered
from medsynth_core.models.tokenizers import ImageTokenizer, load_image_tokenizer
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.training.examples import image_codes
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.training.settings import CalibrateParams

_BATCH = 32


@dataclass(frozen=True)
class CalibrateReport:
    """Images that the filters were calibrated on, and the filters by name."""

    n_training: int
    n_held_out: int
    filters: tuple[str, ...]


def run(params: CalibrateParams, paths: Paths, progress: Progress) -> CalibrateReport:
    """Fits and calibrates every filter and writes ``paths["calibrate"]``, with the labelling judge.

    Raises:
        InputError: there are no training or held-out images, or a model is missing.
    """
    device = pick_device(params.device)
    image_tokenizer = load_image_tokenizer(paths["vqgan"]).to(device)
    alignment = AlignmentModel.load(paths["alignment"]).to(device)
    judge = Judge.load(paths["judge"]).to(device)
    training, held_out = read_pairs(paths, "train"), read_pairs(paths, "val")
    with replace_directory(paths["calibrate"]) as folder, tempfile.TemporaryDirectory() as scratch:
        images_u8 = _rendered(training, image_tokenizer, Path(scratch), progress)
        known = _training_set(judge, images_u8)
        judging = Judging(judge, alignment, known, training.corpus.image_size)
        reference = RenderedReference(images_u8, training.conditions, judging)
        fitted: dict[str, Arrays] = {}
        for done, each in enumerate(FILTERS):
            progress(done, len(FILTERS), each.name)
            fitted[each.name] = each.fit(reference)
        scores = _held_out_scores(fitted, judging, image_tokenizer, held_out)
        known.save(folder)
        judge.save(folder / JUDGE)
        for each in FILTERS:
            save_filter(folder, each, fitted[each.name], scores[each.name])
        progress(len(FILTERS), len(FILTERS))
    return CalibrateReport(len(training), len(held_out), tuple(each.name for each in FILTERS))


def _rendered(pairs: Pairs, image_tokenizer: ImageTokenizer, scratch: Path, progress: Progress) -> Images:
    """Returns all images as the tokenizer renders them, in a file: of a large corpus memory wouldn't hold them."""
    side = pairs.corpus.image_size
    images_u8 = np.lib.format.open_memmap(
        scratch / "rendered.npy", mode="w+", dtype=np.uint8, shape=(len(pairs), side, side)
    )
    done = 0
    for batch in rendered(image_tokenizer, image_codes(pairs, image_tokenizer)):
        images_u8[done : done + len(batch)] = batch
        done += len(batch)
        progress(done, len(pairs), "rendering")
    return images_u8


def _training_set(judge: Judge, images_u8: Images) -> TrainingSet:
    parts = [np.asarray(images_u8[start : start + _BATCH]) for start in range(0, len(images_u8), _BATCH)]
    features = np.concatenate([see(judge, part)[1] for part in parts])
    return TrainingSet(np.concatenate([thumbnails(part) for part in parts]), features.astype(np.float16))


def _held_out_scores(
    fitted: Mapping[str, Arrays], judging: Judging, image_tokenizer: ImageTokenizer, held_out: Pairs
) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Returns what real held-out images score, by filter and column."""
    models = {each.name: each.model(fitted[each.name], judging.training) for each in FILTERS}
    parts: dict[str, dict[str, list[npt.NDArray[Any]]]] = {each.name: defaultdict(list) for each in FILTERS}
    images_u8 = np.concatenate(list(rendered(image_tokenizer, image_codes(held_out, image_tokenizer))))
    originals_u8 = held_out.corpus.images(held_out.rows)
    for suffix, side_u8, filters in (
        ("", images_u8, FILTERS),
        (OF_ORIGINALS, originals_u8, [each for each in FILTERS if each.has_floor]),
    ):
        for images, prompts, context in glimpses(judging, side_u8, held_out.conditions, _BATCH):
            for each in filters:
                for name, values in each.calibrate(images, prompts, context, models[each.name]).items():
                    parts[each.name][name + suffix].append(values)
    return {name: {key: np.concatenate(values) for key, values in of.items()} for name, of in parts.items()}
