"""The fidelity stage: how the judged images differ from real films, before they are released.

Real films are originals here, not what the tokenizer makes of them: held-out ones (split ``test``) are compared, those
of ``val`` say how far real films lie from the training ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.fidelity.compared import Side, fidelity_figures, told_apart_figures
from medsynth_core.fidelity.diversity import diversity_figures
from medsynth_core.fidelity.figures import COVERAGE, FIDELITY, RECALL, FidelityFigure
from medsynth_core.fidelity.settings import FidelityParams
from medsynth_core.fidelity.spaces import real_ranges
from medsynth_core.fidelity.spectrum import radial_profile
from medsynth_core.judging.measured import MeasuredReport, as_report, few_images, leave_measured, measured_once
from medsynth_core.judging.released import Released
from medsynth_core.models.artifact import model_digest, pick_device
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.rendering import as_rendered
from medsynth_core.models.tokenizers import load_image_tokenizer
from medsynth_core.progress import Progress
from medsynth_core.random import stream
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore

_MEASURED_AS = 2
"""Raised when the same images would get other figures."""
_BATCH = 32
_SIDES = ("synthetic", "rendered", "real")


def run(params: FidelityParams, paths: Paths, store: ObjectStore, progress: Progress) -> MeasuredReport:
    """Measures the images that were judged, unless the store has it, and writes what was found. Whether they may be
    published is the release stage's to say. Returns figures by side, a fidelity by space and the smaller one of both.

    Raises:
        InputError: there is no judged run, or a model is missing.
        CorruptObjectError: an object is damaged.
    """
    judged = ShardList.load(paths["deduplicate"], "deduplicate")
    shards, corpus = paths.digests.file(paths["deduplicate"] / "shards.json"), paths.digest("corpus")
    settings = params.fidelity.model_dump(mode="json")
    inputs = [_MEASURED_AS, params.seed, settings, shards, corpus, model_digest(paths["vqgan"], paths.digests)]
    found = measured_once(
        "fidelity", judged, inputs, store, lambda: _measure(params, paths, judged, corpus, store, progress)
    )
    return leave_measured("fidelity", paths, found, shards, _flat(found["figures"]), _table(found["spectra"]))


def _measure(
    params: FidelityParams, paths: Paths, judged: ShardList, corpus: str, store: ObjectStore, progress: Progress
) -> dict[str, Any]:
    settings, seed = params.fidelity, params.seed
    released = Released.choose(judged, store, settings.max_images)
    views = {row["view"] or "frontal" for row in released.rows}
    films = _Films.of(Corpus.open(paths["corpus"]), views, settings.max_images, seed)
    n = len(released), len(films.rows["train"]), len(films.rows["test"])
    if VisualCodebook.load(paths["alignment"] / "codebook").corpus != corpus:
        reason: str | None = "the models were trained on another corpus, whose real films aren't at hand"
    else:
        counts = {"synthetic": n[0], "training": n[1], "held-out": n[2], "validation": len(films.rows["val"])}
        reason = few_images(counts, settings.min_images, "fidelity.min_images")
    if reason is not None:
        figure = FidelityFigure(FIDELITY, "all", n[0], n[2], reason=reason)
        return as_report(*n, [figure], spectra={})
    device = pick_device(params.device)
    real = films.side("test")
    sides = {
        "synthetic": Side(released.read(_BATCH, progress), [row["prompt_id"] for row in released.rows]),
        "rendered": Side(as_rendered(load_image_tokenizer(paths["vqgan"]).to(device), real.images_u8), real.groups),
        "real": real,
    }
    progress(0, 1, "telling apart")
    figures = list(told_apart_figures(sides, settings.told_apart_images, seed, device))
    training = films.side("train")
    figures += fidelity_figures(sides, real_ranges(training.images_u8, films.side("val").images_u8, device))
    figures += diversity_figures(sides["synthetic"], training, real, seed, device)
    return as_report(*n, figures, spectra=_spectra(sides))


@dataclass(frozen=True)
class _Films:
    """Some real films a split: rows of the corpus, and patients."""

    corpus: Corpus
    rows: dict[str, list[int]]
    patients: dict[str, list[str]]

    @classmethod
    def of(cls, corpus: Corpus, views: set[str], most: int, seed: int) -> _Films:
        """Returns up to ``most`` films a split in these views (frontal, lateral)."""
        rows, patients = {}, {}
        for split in ("train", "val", "test"):
            there = [
                row
                for row in corpus.views(split).to_pylist()
                if ("lateral" if row["view"] == "lateral" else "frontal") in views
            ]
            places = np.sort(stream(seed, "fidelity.films", split).permutation(len(there))[:most])
            rows[split] = [there[place]["row"] for place in places]
            patients[split] = [there[place]["patient_id"] for place in places]
        return cls(corpus, rows, patients)

    def side(self, split: str) -> Side:
        return Side(self.corpus.images(np.array(self.rows[split], dtype=np.int64)), self.patients[split])


def _spectra(sides: dict[str, Side]) -> dict[str, list[float]]:
    """Returns frequencies in cycles an image, and the mean log10 power of each side at each."""
    profiles = {name: radial_profile(sides[name].images_u8) for name in _SIDES}
    spectra = {"frequency": profiles["real"][0], **{name: power for name, (_, power) in profiles.items()}}
    return {name: [round(float(value), 4) for value in values] for name, values in spectra.items()}


def _flat(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    flat: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["value"] is None:
            continue
        of_side = flat.setdefault(row["side"], {})
        if row["metric"] == FIDELITY:
            of_side |= {f"fidelity_{row['space']}": row["value"], f"fidelity_{row['space']}_real": row["real"]}
            of_side[FIDELITY] = min(of_side.get(FIDELITY, 1.0), row["value"])
        elif row["metric"] in (RECALL, COVERAGE):
            name = f"{row['metric']}_{row['space']}"
            of_side |= {name: row["value"], f"{name}_real": row["real"]}
        else:
            of_side[f"told_from_{row['against']}_{row['space']}"] = row["value"]
    return flat


def _table(spectra: dict[str, list[float]]) -> str:
    """Returns the power by frequency, for ``dvc plots``."""
    rows = [
        f"{side},{frequency:g},{power}\n"
        for side in _SIDES
        for frequency, power in zip(spectra.get("frequency", ()), spectra.get(side, ()), strict=True)
    ]
    return "".join(["images,frequency,log_power\n", *rows])
