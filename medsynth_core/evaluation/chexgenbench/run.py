"""The whole benchmark: networks and images are found and checked, then looked at, then tables are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from medsynth_core.chance import rounded
from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation.chexgenbench.alignment import Cosines, alignment_figures, cosines
from medsynth_core.evaluation.chexgenbench.fidelity import Side, fidelity_figures
from medsynth_core.evaluation.chexgenbench.measured import Measured
from medsynth_core.evaluation.chexgenbench.networks import (
    BIOVIL_T,
    INCEPTION,
    RAD_DINO,
    REID,
    Cast,
    called,
    described,
    own_side,
    short,
)
from medsynth_core.evaluation.chexgenbench.pictures import Pictures, as_tensor
from medsynth_core.evaluation.chexgenbench.protocol import PATHOLOGIES, SIDE
from medsynth_core.evaluation.chexgenbench.reidentified import (
    PROMPT,
    Encoded,
    Pairs,
    by_prompt,
    encode,
    nearest,
    paired,
    privacy_figures,
    privacy_rows,
)
from medsynth_core.evaluation.chexgenbench.request import Request
from medsynth_core.evaluation.chexgenbench.rows import Row, alignment_row, as_csv, fidelity_row, privacy_table
from medsynth_core.evaluation.chexgenbench.sides import Sides, gather
from medsynth_core.evaluation.extractors import load_extractor
from medsynth_core.evaluation.image_text import ImageTextPair, load_pair
from medsynth_core.evaluation.reidentification import Reidentifier, load_reidentifier
from medsynth_core.evaluation.settings import EvaluationParams
from medsynth_core.hashing import sha256_file
from medsynth_core.models.artifact import pick_device
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import write_bytes_atomically
from medsynth_core.synthesis.settings import SynthesisParams

JSON = "benchmark.json"
_PARTS = {"fidelity": (RAD_DINO, INCEPTION), "alignment": (BIOVIL_T,), "privacy": (RAD_DINO, REID)}
"""Parts of the benchmark, and the roles whose networks look at them."""
_UNSAFE = re.compile(r"[^\w.-]+")


def run(
    request: Request,
    playing: Cast,
    params: EvaluationParams,
    synthesis: SynthesisParams,
    paths: Paths,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Returns what was found, as ``benchmark.json`` has it, having written it and the tables into ``out``.

    Args:
        playing: of ``networks.cast``.

    Raises:
        InputError: a file, column, prompt or image is missing or can't be read; weights are damaged or another
            network's. All of that but a damaged image body is found before any image is looked at.
        StoreError: ``out`` can't be written.
    """
    device = pick_device(params.device)
    nets = _Networks(playing, paths, device)
    sides = gather(request, params, synthesis, paths, progress)
    if not playing.entries:
        raise InputError("every network is left out, so there is nothing to measure; give one")
    figures, private = list[Measured](), list[Row]()
    look = _Look(playing, nets, sides, params, paths, device, progress)
    for role in (RAD_DINO, INCEPTION):
        figures += look.fidelity(role)
    figures += look.alignment()
    for more, rows in look.privacy():
        figures, private = figures + more, rows
    doubts = _doubts(playing, sides)
    tables = _tables(figures, private, playing, sides, doubts)
    about = _about(request, playing, paths, sides, figures, doubts, tables)
    for name, rows in tables.items():
        if rows:
            write_bytes_atomically(out / name, as_csv(rows).encode())
    write_bytes_atomically(out / JSON, (json.dumps(about, indent=2) + "\n").encode())
    return about


class _Networks:
    """The opened networks; None of a role that is left out."""

    def __init__(self, playing: Cast, paths: Paths, device: torch.device) -> None:
        entry = playing.entries.get
        self.features: dict[str, nn.Module] = {
            role: load_extractor(name, paths).to(device) for role in (RAD_DINO, INCEPTION) if (name := entry(role))
        }
        pair, reid = entry(BIOVIL_T), entry(REID)
        self.pair: ImageTextPair | None = load_pair(pair, paths).to(device) if pair else None
        self.reid: Reidentifier | None = load_reidentifier(reid, paths).to(device) if reid else None


class _Look:
    """What each network says of the sides."""

    def __init__(
        self,
        playing: Cast,
        nets: _Networks,
        sides: Sides,
        params: EvaluationParams,
        paths: Paths,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self._playing, self._nets, self._sides, self._paths = playing, nets, sides, paths
        self._batch, self._seed, self._device, self._progress = (
            params.evaluation.batch_size,
            params.seed,
            device,
            progress,
        )
        there = {label for shown in (*sides.synthetic.labels, *sides.real.labels) for label in shown}
        self.labels: list[str | None] = [None, *(label for label in PATHOLOGIES if label in there)]

    def fidelity(self, role: str) -> Iterator[Measured]:
        """Yields the figures of a role's features."""
        if (net := self._nets.features.get(role)) is None:
            return
        pictures = (self._sides.synthetic, self._sides.real, self._sides.training)
        sides = [Side(each, self._features(net, each, role)) for each in pictures]
        for label in self.labels:
            entry = short(self._playing.entries[role])
            yield from fidelity_figures(role, entry, label, sides[0], sides[1], sides[2], self._seed)

    @torch.inference_mode()
    def _features(self, net: nn.Module, pictures: Pictures, role: str) -> Any:
        """Returns features float32 [N, F] of images resized as the protocol says, or to the side that a network of
        the workspace learnt from."""
        parts, done = list[Any](), 0
        steps = [(SIDE, Image.Resampling.BILINEAR)]
        if (side := self._own_side(role)) is not None:
            steps = [(side, Image.Resampling.BILINEAR)]
        for images in pictures.batches(self._batch, *steps):
            parts.append(net(as_tensor(images, self._device)).float().cpu().numpy())
            done += len(images)
            self._progress(done, len(pictures), called(role))
        return np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)

    def _own_side(self, role: str) -> int | None:
        return own_side(self._playing.entries[role], self._paths)

    def alignment(self) -> Iterator[Measured]:
        """Yields how images go with their prompts, beside real images with theirs."""
        if (pair := self._nets.pair) is None:
            return
        synthetic, real = self._sides.synthetic, self._sides.real
        ours, theirs = (
            cosines(pair, each, self._batch, self._progress, called(BIOVIL_T)) for each in (synthetic, real)
        )
        entry = short(self._playing.entries[BIOVIL_T])
        for label in self.labels:
            places = real.places(label)
            usual = Cosines(theirs.own[places], theirs.others[places])
            yield from alignment_figures(entry, label, synthetic, ours, usual, len(places), self._seed)

    def privacy(self) -> Iterator[tuple[list[Measured], list[Row]]]:
        """Yields figures and rows of re-identification, where there are training images and a network."""
        sides, reid = self._sides, self._nets.reid
        net = self._nets.features.get(RAD_DINO)
        if reid is None or not len(sides.privacy) or (net is None and sides.paired_by != PROMPT):
            return

        side = None if net is None else self._own_side(RAD_DINO)

        def seen(pictures: Pictures) -> Encoded:
            return encode(pictures, net, side, reid, self._device, self._batch, self._progress)

        ours, training = seen(sides.privacy), seen(sides.sources)
        control: Pairs | None = None
        if sides.paired_by == PROMPT:
            places, control_of = by_prompt(sides.privacy, sides.sources), "other studies' films"
            if len(sides.sources) > 1:
                # far off: studies that stand beside each other may be of one patient
                other = by_prompt(sides.privacy, sides.sources, shift=len(sides.sources) // 2)
                control = paired(ours, training, other, reid, self._device)
        else:
            places, control_of = nearest(ours, training), "held-out images"
            held_out = seen(sides.real)
            control = paired(held_out, training, nearest(held_out, training), reid, self._device)
        pairs = paired(ours, training, places, reid, self._device)
        entry = short(self._playing.entries[REID])
        figures = privacy_figures(entry, pairs, control, control_of, reid.same_patient, len(sides.sources), self._seed)
        yield list(figures), privacy_rows(pairs)


def _doubts(playing: Cast, sides: Sides) -> dict[str, list[str]]:
    """Returns why the figures of each part that is measured don't compare with the board's; whether a file of prompts
    is the board's isn't known here."""

    def why(roles: Sequence[str]) -> list[str]:
        stand_ins = playing.stand_ins.items()
        return [
            *sides.doubts,
            *(f"{short(entry)} in place of {called(role)}" for role, entry in stand_ins if role in roles),
        ]

    found = {part: why(roles) for part, roles in _PARTS.items() if set(roles) & set(playing.entries)}
    if REID not in playing.entries or not len(sides.privacy):
        found.pop("privacy", None)
    elif sides.paired_by != PROMPT:
        found["privacy"].append("held against the nearest training images, not against those of the prompts")
    return found


def _tables(
    figures: Sequence[Measured],
    private: Sequence[Row],
    playing: Cast,
    sides: Sides,
    doubts: Mapping[str, Sequence[str]],
) -> dict[str, list[Row]]:
    """Returns the rows of each file by its name."""
    extra = {
        part: sides.name if not why else f"{sides.name} (not comparable: {'; '.join(why)})"
        for part, why in doubts.items()
    }
    told = {figure.label for figure in figures if figure.value is not None}
    labels = [label for label in PATHOLOGIES if label in told]
    found = dict[str, list[Row]]()
    if {RAD_DINO, INCEPTION} & set(playing.entries):
        found["image_generation_metrics.csv"] = [fidelity_row(figures, None, playing, extra["fidelity"], sides.caption)]
        found["conditional_image_generation_metrics.csv"] = [
            fidelity_row(figures, label, playing, extra["fidelity"], sides.caption) for label in labels
        ]
    if BIOVIL_T in playing.entries:
        found["img_text_alignment.csv"] = [alignment_row(figures, None, playing, extra["alignment"])]
        found["conditional_img_text_alignment.csv"] = [
            alignment_row(figures, label, playing, extra["alignment"]) for label in labels
        ]
    if private:
        found[f"privacy_metrics_{_UNSAFE.sub('-', sides.name)}.csv"] = privacy_table(private, playing)
    return found


def _about(
    request: Request,
    playing: Cast,
    paths: Paths,
    sides: Sides,
    figures: Sequence[Measured],
    doubts: Mapping[str, Sequence[str]],
    tables: dict[str, list[Row]],
) -> dict[str, Any]:
    given = {key: value for key in ("prompts", "real", "train") if (value := getattr(request, key)) is not None}
    return {
        "benchmark": "CheXGenBench (arXiv:2505.10496)",
        "name": sides.name,
        "not_comparable": dict(doubts),
        "left_out": list(sides.left_out),
        "networks": described(playing, paths),
        "missing": list(playing.missing),
        "n": {
            "synthetic": len(sides.synthetic),
            "real": len(sides.real),
            "training": len(sides.training),
            "privacy": len(sides.privacy),
        },
        "paired_by": sides.paired_by if len(sides.privacy) else None,
        "files": {key: {"name": path.name, "sha256": sha256_file(path)} for key, path in given.items()},
        "figures": [rounded(asdict(figure)) for figure in figures],
        "rows": {name: rows for name, rows in tables.items() if not name.startswith("privacy_metrics_")},
    }
