"""The shard worker: synthesise, judge, pack, upload, record."""

from __future__ import annotations

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medsynth_core import __version__
from medsynth_core.errors import ConfigError
from medsynth_core.filters.fingerprints import Features, Fingerprints
from medsynth_core.filters.thumbnails import thumbnails
from medsynth_core.judging.verdicts import Chain, Verdict
from medsynth_core.manifest import table_of
from medsynth_core.models.codebook import Keypatch
from medsynth_core.storage.completion import CompletionRecord, Counts, write_record
from medsynth_core.storage.content import put_content
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.shard import ShardWriter
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import ImageRequest, RunIdentity, ShardPlan, image_seed
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.synthesis.settings import SynthesisConfig
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.tally import count, timed

log = logging.getLogger(__name__)

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="r"?>'
)
"""IPTC's mark of what a trained model made; 427 bytes of a PNG, of which one of 256 x 256 pixels has some 35,000."""

_encoders = ThreadPoolExecutor(max_workers=4, thread_name_prefix="png")


@dataclass(frozen=True)
class _Image:
    png: bytes
    width: int
    height: int
    thumbnail: npt.NDArray[np.uint8]
    verdict: Verdict

    @property
    def features(self) -> Features | None:
        return self.verdict.features if self.verdict.accepted else None


@dataclass(frozen=True)
class ShardWorker:
    """Makes shards of one run, any number at a time; everything it needs comes in as arguments.

    Attributes:
        chain: the enabled filters; its labelling judge gives every accepted image its features.
        split: value of the manifest's column.
    """

    identity: RunIdentity
    settings: SynthesisConfig
    split: str
    prompts: Sequence[PromptRow]
    synthesiser: Synthesiser
    chain: Chain
    store: ObjectStore

    def make(self, plan: ShardPlan, shard: int) -> CompletionRecord:
        """Returns the completion record of a shard of ``plan``, made and uploaded; written last, so that a kill before
        it leaves nothing that counts. While a batch is judged and encoded here, the next one is being decoded.

        Raises:
            ConfigError: the shard outgrows synthesis.max_shard_bytes.
            StoreError, TransientError: the store fails.
        """
        requests = plan.requests(shard)
        prompts = [self.prompts[request.prompt_index] for request in requests]
        keypatches = self._keypatches(requests)
        images = self._images([request.image_id for request in requests], prompts, keypatches)
        fingerprints = _fingerprints(images)
        self.chain.judge_together([image.verdict for image in images], fingerprints)
        with timed("phase_seconds", phase="pack"):
            tar, places = self._pack(shard, requests, prompts, images)
        name = plan.name(shard)
        rows = [
            self._row(request, prompt, patches, image)
            | _location(places.get(request.image_id), _tar_name(name), image.png)
            for request, prompt, patches, image in zip(requests, prompts, keypatches, images, strict=True)
        ]
        with timed("phase_seconds", phase="upload"):
            return write_record(self.store, self._record(plan, shard, tar, rows))

    def _pack(
        self, shard: int, requests: Sequence[ImageRequest], prompts: Sequence[PromptRow], images: Sequence[_Image]
    ) -> tuple[bytes, dict[str, tuple[int, int]]]:
        """Returns the tar of the accepted images, and (offset, size) of each PNG in it by image id."""
        writer = ShardWriter()
        for request, prompt, image in zip(requests, prompts, images, strict=True):
            if image.verdict.accepted:
                label = {"prompt": prompt.text, "labels": list(prompt.findings), "view": prompt.view, "synthetic": True}
                writer.add(request.image_id, image.png, label)
        tar, places = writer.finish()
        if len(tar) > self.settings.max_shard_bytes:
            raise ConfigError(
                f"shard {shard} has {len(tar)} bytes, more than synthesis.max_shard_bytes="
                f"{self.settings.max_shard_bytes}; lower synthesis.shard_images"
            )
        return tar, places

    def _record(self, plan: ShardPlan, shard: int, tar: bytes, rows: list[dict[str, Any]]) -> CompletionRecord:
        """Returns the record of a shard whose objects are uploaded."""
        name = plan.name(shard)
        rows.sort(key=lambda row: str(row["image_id"]))
        accepted = [row for row in rows if row["verdict"] == "accepted"]
        rejected = [row for row in rows if row["verdict"] == "rejected"]
        reasons = Counter(row["reasons"][0] for row in rejected)
        log.info(
            "shard %d of %d: %d of %d accepted, decoded by %s",
            *(shard, plan.n_shards, len(accepted), len(rows), self.synthesiser.engine.path),
        )
        return CompletionRecord(
            run_id=plan.run_id,
            shard=shard,
            n_shards=plan.n_shards,
            tar=put_content(self.store, _tar_name(name), tar) if accepted else None,
            manifest=put_content(self.store, f"manifest/{name}.parquet", parquet_bytes(table_of(accepted))),
            rejected=put_content(self.store, f"rejected/{name}.parquet", parquet_bytes(table_of(rejected)))
            if rejected
            else None,
            counts=Counts(requested=len(rows), accepted=len(accepted), rejected=dict(sorted(reasons.items()))),
        )

    def _images(
        self, image_ids: Sequence[str], prompts: Sequence[PromptRow], keypatches: Sequence[Sequence[Keypatch]]
    ) -> list[_Image]:
        """Returns the judged and encoded image of each prompt; pixels are held for one batch at a time."""
        done: dict[int, _Image] = {}
        batches = self.synthesiser.batches(image_ids, prompts, keypatches)
        while True:
            with timed("phase_seconds", phase="decode"):
                batch = next(batches, None)
            if batch is None:
                break
            count("tokens", len(batch.places) * self.synthesiser.llm.layout.tokens)
            with timed("phase_seconds", phase="judge"):
                pixels = self.synthesiser.render(batch)
                pngs = _encoders.map(encode_png, pixels)
                verdicts = self.chain.verdicts(pixels, [prompts[place] for place in batch.places])
                judged = zip(batch.places, thumbnails(pixels), pngs, verdicts, strict=True)
                for place, thumbnail, png, verdict in judged:
                    done[place] = _Image(png, pixels.shape[2], pixels.shape[1], thumbnail, verdict)
        return [done[place] for place in range(len(prompts))]

    def _keypatches(self, requests: Sequence[ImageRequest]) -> list[list[Keypatch]]:
        distinct = sorted({request.prompt_index for request in requests})
        found = dict(zip(distinct, self.synthesiser.keypatches([self.prompts[i] for i in distinct]), strict=True))
        return [found[request.prompt_index] for request in requests]

    def _row(
        self, request: ImageRequest, prompt: PromptRow, keypatches: Sequence[Keypatch], image: _Image
    ) -> dict[str, Any]:
        digests = self.identity.model_digests
        return {
            "image_id": request.image_id,
            "split": self.split,
            "sha256": hashlib.sha256(image.png).hexdigest(),
            "width": image.width,
            "height": image.height,
            "prompt_id": prompt.prompt_id,
            "prompt": prompt.text,
            **prompt.condition.columns(),
            "sample": request.sample,
            "seed": image_seed(request.image_id),
            "keypatch_ids": [patch.entry for patch in keypatches],
            "keypatch_scores": [patch.score for patch in keypatches],
            "keypatch_words": [patch.word for patch in keypatches],
            "vqgan_sha256": digests["vqgan"],
            "alignment_sha256": digests["alignment"],
            "llm_sha256": digests["llm"],
            "judge_sha256": self.identity.judge_sha256,
            "sampling": self.settings.model_dump(include={"temperature", "top_p", "top_k", "guidance"}),
            **image.verdict.scores,
            "signature": image.thumbnail.tobytes(),
            "features": None if image.features is None else image.features.tobytes(),
            "verdict": "accepted" if image.verdict.accepted else "rejected",
            "reasons": image.verdict.reasons,
            "synthetic": True,
            "generator": "medsynth",
            "generator_version": __version__,
            "spec_hash": self.identity.spec_hash,
        }


def encode_png(image_u8: npt.NDArray[np.uint8]) -> bytes:
    """Returns an image as PNG that says it is synthetic, in text chunks and as IPTC's digital source type."""
    about = PngInfo()
    about.add_text("Software", f"medsynth {__version__}")
    about.add_text("Comment", "synthetic chest radiograph, not for diagnosis")
    about.add_itxt("XML:com.adobe.xmp", _XMP)
    sink = io.BytesIO()
    Image.fromarray(image_u8).save(sink, format="PNG", pnginfo=about)
    return sink.getvalue()


def _fingerprints(images: Sequence[_Image]) -> Fingerprints:
    features = [image.features for image in images if image.features is not None]
    return Fingerprints(
        np.stack([image.thumbnail for image in images]),
        np.stack(features) if features else np.zeros((0, 0), dtype=np.float16),
        np.array([image.features is not None for image in images]),
    )


def _tar_name(name: str) -> str:
    return f"shards/{name}.tar"


def _location(place: tuple[int, int] | None, tar_name: str, png: bytes) -> dict[str, Any]:
    if place is None:
        return {"shard": None, "offset": None, "size": len(png)}
    return {"shard": tar_name, "offset": place[0], "size": place[1]}
