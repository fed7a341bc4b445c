"""Releases of made-up images, for benchmarks and tests of what comes after synthesis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from medsynth_core import __version__
from medsynth_core.config import Paths
from medsynth_core.fidelity.figures import FidelityFigure
from medsynth_core.filters.thumbnails import thumbnails
from medsynth_core.hashing import sha256_file
from medsynth_core.judging.measured import as_report, save_measured
from medsynth_core.manifest import table_of
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.progress import silent
from medsynth_core.storage.completion import CompletionRecord, Counts, write_record
from medsynth_core.storage.content import put_content
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.shard import ShardWriter
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import image_id, image_seed
from medsynth_core.synthesis.worker import encode_png
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.stages import perform
from medsynth_core.workspace.tree import Config

PATHOLOGIES = ("pleural effusion", "cardiomegaly", "lung nodule", "pneumothorax")
SIDES = ("left", "right")
DIGESTS = {"vqgan": "0" * 64, "alignment": "1" * 64, "llm": "2" * 64}
_FEATURES = 96
_GREY = 64
"""Number of grey levels drawn: with noise of all 256, PNG saves nothing."""

Image = tuple[str, bytes, dict[str, Any]]


def made_images(run: str, shard: int, n: int, side: int) -> Iterator[Image]:
    """Yields (image id, PNG, manifest row without its place) of one shard; an image follows from its arguments."""
    for number in range(n):
        identity = image_id(run, str(shard), number)
        draw = np.random.default_rng(int(identity[:12], 16))
        pixels = draw.integers(0, _GREY, (side, side), dtype=np.uint8)
        kind = int(draw.integers(len(PATHOLOGIES) + 1))
        labels: list[dict[str, Any]] = []
        if kind < len(PATHOLOGIES):
            where = SIDES[int(draw.integers(2))]
            labels = [{"pathology": PATHOLOGIES[kind], "anatomy": "lung", "side": where, "severity": None}]
        png = encode_png(pixels)
        row = {
            "image_id": identity,
            "split": "train",
            "sha256": hashlib.sha256(png).hexdigest(),
            "width": side,
            "height": side,
            "prompt_id": f"p{number:05d}",
            "prompt": "a drawing",
            "anatomy": ["lung"] if labels else [],
            "pathology": [label["pathology"] for label in labels],
            "labels": labels,
            "view": "frontal",
            "sample": number,
            "seed": image_seed(identity),
            "keypatch_ids": [],
            "keypatch_scores": [],
            "keypatch_words": [],
            **{f"{model}_sha256": digest for model, digest in DIGESTS.items()},
            "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "guidance": 1.0},
            "score_contrast": float(pixels.std()),
            "score_clipped": 0.0,
            "score_agreement": float(draw.random()),
            "signature": thumbnails(pixels[None])[0].tobytes(),
            "features": draw.normal(size=_FEATURES).astype(np.float16).tobytes(),
            "synthetic": True,
            "generator": "medsynth",
            "generator_version": __version__,
            "spec_hash": run,
        }
        yield identity, png, row


@dataclass(frozen=True)
class Packed:
    """A shard's objects, before they are uploaded; no tar without an accepted image, no list without a rejected one."""

    name: str
    tar: bytes | None
    manifest: bytes
    rejected: bytes | None
    counts: Counts


def pack_shard(run: str, shard: int, images: Sequence[Image], n_rejected: int = 0) -> Packed:
    """Returns a shard of which the first ``n_rejected`` images were rejected."""
    name, writer = f"{run[:8]}-{shard:05d}", ShardWriter()
    for identity, png, row in images[n_rejected:]:
        writer.add(identity, png, {"prompt": row["prompt"], "labels": row["labels"], "synthetic": True})
    tar, places = writer.finish()
    rows = []
    for identity, png, row in sorted(images, key=lambda image: image[0]):
        kept = identity in places
        place = {"shard": f"shards/{name}.tar", "offset": places[identity][0]} if kept else {}
        verdict = {"verdict": "accepted", "reasons": []} if kept else {"verdict": "rejected", "reasons": ["dull"]}
        rows.append({**row, "size": len(png), **place, **verdict})
    parts = [[row for row in rows if row["verdict"] == verdict] for verdict in ("accepted", "rejected")]
    manifest, rejected = (parquet_bytes(table_of(part)) for part in parts)
    counts = Counts(requested=len(images), accepted=len(places), rejected={"dull": n_rejected} if n_rejected else {})
    return Packed(name, tar if places else None, manifest, rejected if n_rejected else None, counts)


def upload_packed(store: ObjectStore, run: str, shard: int, n_shards: int, packed: Packed) -> CompletionRecord:
    """Uploads a shard's objects and, last, its record, as the shard worker does."""
    record = CompletionRecord(
        run_id=plan_of(run),
        shard=shard,
        n_shards=n_shards,
        tar=None if packed.tar is None else put_content(store, f"shards/{packed.name}.tar", packed.tar),
        manifest=put_content(store, f"manifest/{packed.name}.parquet", packed.manifest),
        rejected=None
        if packed.rejected is None
        else put_content(store, f"rejected/{packed.name}.parquet", packed.rejected),
        counts=packed.counts,
    )
    return write_record(store, record)


def plan_of(run: str) -> str:
    """Returns the id of a run's plan."""
    return f"{run}-plan"


def upload_shard(
    store: ObjectStore, run: str, shard: int, n_shards: int, images: Sequence[Image], n_rejected: int = 0
) -> CompletionRecord:
    """Uploads a shard of which the first ``n_rejected`` images were rejected, and its record."""
    return upload_packed(store, run, shard, n_shards, pack_shard(run, shard, images, n_rejected))


def leave_judged(paths: Paths, run: str, records: Sequence[CompletionRecord], parent: str | None = None) -> None:
    """Leaves on disk what the stages before the release do."""
    for folder in (paths["corpus"], paths["prompts"], paths["deduplicate"], paths["privacy"], paths["fidelity"]):
        folder.mkdir(parents=True, exist_ok=True)
    about = {"kind": "phantom", "licence": "none", "studies": {"train": 4}, "views": {"train": 4}, "image_size": 64}
    (paths["corpus"] / "corpus.json").write_text(json.dumps(about))
    account = {"provider": "template", "requested": 3, "accepted": 3, "rejected": {}}
    (paths["prompts"] / "account.json").write_text(json.dumps(account))
    leave_shards(paths["deduplicate"], run, records, parent)
    unmeasured = RiskFigure("all", "all", 0, 0, reason="the images are made up")
    unlooked = FidelityFigure("fidelity", "all", 0, 0, reason="the images are made up")
    shards = sha256_file(paths["deduplicate"] / "shards.json")
    save_measured("privacy", paths["privacy"], as_report(0, 0, 0, [unmeasured], histograms={}), shards)
    save_measured("fidelity", paths["fidelity"], as_report(0, 0, 0, [unlooked], spectra={}), shards)


def leave_shards(folder: Path, run: str, records: Sequence[CompletionRecord], parent: str | None = None) -> ShardList:
    """Writes the list of some shards into a folder, as synthesis and deduplicate do, and returns it."""
    listed = ShardList(
        spec_hash=run,
        run_ids=(plan_of(run),),
        parent=parent,
        model_digests=DIGESTS,
        judge_sha256="0" * 64,
        quality=configure(["quality.enabled=[degenerate,agreement,duplicate]"]).quality.recorded(),
        bounds={"agreement": -1.0, "clipped": 1.0, "copy": 0.0, "copy_features": 0.0, "training_copy": 0.0},
        shards=tuple(records),
        counts=reduce(add, (record.counts for record in records)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    listed.save(folder)
    return listed


def publish_made(
    config: Config,
    paths: Paths,
    store: ObjectStore,
    run: str,
    shards: Sequence[int],
    side: int = 16,
    n_rejected: int = 0,
) -> list[CompletionRecord]:
    """Publishes a release of made-up shards, so many images each, and returns their records.

    Args:
        run: stands for the spec hash; another one makes other images.
        n_rejected: of each shard.
    """
    records = [
        upload_shard(store, run, number, len(shards), list(made_images(run, number, n, side)), n_rejected)
        for number, n in enumerate(shards)
    ]
    leave_judged(paths, run, records, config.release.parent)
    perform("release", config, paths.root, silent, store)
    return records
