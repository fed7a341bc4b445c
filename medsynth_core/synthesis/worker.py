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
from medsynth_core.config import Config
from medsynth_core.errors import ConfigError
from medsynth_core.models.codebook import Keypatch
from medsynth_core.quality.alike import CopyBounds, Marks, reject_copies
from medsynth_core.quality.duplicate import signatures
from medsynth_core.quality.embedding import Embedding
from medsynth_core.quality.filters import Filter, Images, Verdict, judge_images
from medsynth_core.storage.completion import CompletionRecord, Counts, write_record
from medsynth_core.storage.content import put_content
from medsynth_core.storage.manifest import parquet_bytes, table_of
from medsynth_core.storage.shard import ShardWriter
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import ImageRequest, ShardPlan, image_seed
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.synthesis.synthesiser import Synthesiser

log = logging.getLogger(__name__)

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="r"?>'
)
"""IPTC's mark of what a trained model made; 427 bytes of a PNG, of which one of 256 x 256 pixels has some 35,000."""

_JUDGED_AT_ONCE = 64
"""Images, so few that what filters compute of 256 x 256 pixels stays in a cache."""

_encoders = ThreadPoolExecutor(max_workers=4, thread_name_prefix="png")


@dataclass(frozen=True)
class _Image:
    png: bytes
    width: int
    height: int
    mark: npt.NDArray[np.uint8]
    features: npt.NDArray[np.float16] | None
    verdict: Verdict


@dataclass(frozen=True)
class ShardWorker:
    """Makes shards of one spec, any number at a time; everything it needs comes in as arguments.

    Attributes:
        copy_bounds: distances at which an image is a copy of an earlier one of its shard; None lets copies pass.
        embedding: the labelling judge, whose features every accepted image gets.
    """

    config: Config
    prompts: Sequence[PromptRow]
    synthesiser: Synthesiser
    digests: dict[str, str]
    filters: Sequence[Filter]
    copy_bounds: CopyBounds | None
    embedding: Embedding
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
        if self.copy_bounds is not None:
            reject_copies([image.verdict for image in images], _marks(images), self.copy_bounds)
        writer = ShardWriter()
        for request, prompt, image in zip(requests, prompts, images, strict=True):
            if image.verdict.accepted:
                label = {"prompt": prompt.text, "labels": list(prompt.findings), "view": prompt.view, "synthetic": True}
                writer.add(request.image_id, image.png, label)
        tar, places = writer.finish()
        if len(tar) > self.config.synthesis.max_shard_bytes:
            raise ConfigError(
                f"shard {shard} has {len(tar)} bytes, more than synthesis.max_shard_bytes="
                f"{self.config.synthesis.max_shard_bytes}; lower synthesis.shard_images"
            )
        name = plan.name(shard)
        tar_name = f"shards/{name}.tar"
        rows = [
            self._row(plan.spec_hash, request, prompt, patches, image)
            | _location(places.get(request.image_id), tar_name, image.png)
            for request, prompt, patches, image in zip(requests, prompts, keypatches, images, strict=True)
        ]
        rows.sort(key=lambda row: str(row["image_id"]))
        accepted = [row for row in rows if row["verdict"] == "accepted"]
        rejected = [row for row in rows if row["verdict"] == "rejected"]
        reasons = Counter(image.verdict.reasons[0] for image in images if image.verdict.reasons)
        record = CompletionRecord(
            run_id=plan.run_id,
            shard=shard,
            n_shards=plan.n_shards,
            tar=put_content(self.store, tar_name, tar) if accepted else None,
            manifest=put_content(self.store, f"manifest/{name}.parquet", parquet_bytes(table_of(accepted))),
            rejected=put_content(self.store, f"rejected/{name}.parquet", parquet_bytes(table_of(rejected)))
            if rejected
            else None,
            counts=Counts(requested=len(requests), accepted=len(accepted), rejected=dict(sorted(reasons.items()))),
        )
        log.info(
            "shard %d of %d: %d of %d accepted, decoded by %s",
            *(shard, plan.n_shards, len(accepted), len(requests), self.synthesiser.engine.path),
        )
        return write_record(self.store, record)

    def _images(
        self, image_ids: Sequence[str], prompts: Sequence[PromptRow], keypatches: Sequence[Sequence[Keypatch]]
    ) -> list[_Image]:
        """Returns the judged and encoded image of each prompt; pixels are held for one batch at a time."""
        done: dict[int, _Image] = {}
        for batch in self.synthesiser.batches(image_ids, prompts, keypatches):
            pixels = self.synthesiser.render(batch)
            pngs = _encoders.map(encode_png, pixels)
            verdicts = self._verdicts(pixels, [prompts[place] for place in batch.places])
            for place, mark, png, verdict in zip(batch.places, signatures(pixels), pngs, verdicts, strict=True):
                features = verdict.features if verdict.accepted else None
                done[place] = _Image(png, pixels.shape[2], pixels.shape[1], mark, features, verdict)
        return [done[place] for place in range(len(prompts))]

    def _verdicts(self, pixels: Images, prompts: Sequence[PromptRow]) -> list[Verdict]:
        """Returns a verdict an image, with the features of all that are accepted."""
        parts = [slice(start, start + _JUDGED_AT_ONCE) for start in range(0, len(pixels), _JUDGED_AT_ONCE)]
        found = self.synthesiser.map(self._judge, [pixels[part] for part in parts], [prompts[part] for part in parts])
        return [verdict for part in found for verdict in part]

    def _judge(self, pixels: Images, prompts: Sequence[PromptRow]) -> list[Verdict]:
        verdicts = judge_images(self.filters, pixels, prompts)
        unseen = [row for row, verdict in enumerate(verdicts) if verdict.accepted and verdict.features is None]
        if unseen:
            for row, features in zip(unseen, self.synthesiser.look(self.embedding, pixels[unseen])[1], strict=True):
                verdicts[row].features = features
        return verdicts

    def _keypatches(self, requests: Sequence[ImageRequest]) -> list[list[Keypatch]]:
        distinct = sorted({request.prompt_index for request in requests})
        found = dict(zip(distinct, self.synthesiser.keypatches([self.prompts[i] for i in distinct]), strict=True))
        return [found[request.prompt_index] for request in requests]

    def _row(
        self, spec: str, request: ImageRequest, prompt: PromptRow, keypatches: Sequence[Keypatch], image: _Image
    ) -> dict[str, Any]:
        settings = self.config.synthesis
        return {
            "image_id": request.image_id,
            "split": self.config.release.split,
            "sha256": hashlib.sha256(image.png).hexdigest(),
            "width": image.width,
            "height": image.height,
            "prompt_id": prompt.prompt_id,
            "prompt": prompt.text,
            "anatomy": prompt.anatomy,
            "pathology": prompt.pathology,
            "labels": list(prompt.findings),
            "view": prompt.view,
            "sample": request.sample,
            "seed": image_seed(request.image_id),
            "keypatch_ids": [patch.entry for patch in keypatches],
            "keypatch_scores": [patch.score for patch in keypatches],
            "keypatch_words": [patch.word for patch in keypatches],
            "vqgan_sha256": self.digests["vqgan"],
            "alignment_sha256": self.digests["alignment"],
            "llm_sha256": self.digests["llm"],
            "sampling": settings.model_dump(include={"temperature", "top_p", "top_k", "guidance"}),
            **image.verdict.scores,
            "signature": image.mark.tobytes(),
            "features": None if image.features is None else image.features.tobytes(),
            "verdict": "accepted" if image.verdict.accepted else "rejected",
            "reasons": image.verdict.reasons,
            "synthetic": True,
            "generator": "medsynth",
            "generator_version": __version__,
            "spec_hash": spec,
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


def _marks(images: Sequence[_Image]) -> Marks:
    features = [image.features for image in images if image.features is not None]
    return Marks(
        np.stack([image.mark for image in images]),
        np.stack(features) if features else np.zeros((0, 0), dtype=np.float16),
        np.array([image.features is not None for image in images]),
    )


def _location(place: tuple[int, int] | None, tar_name: str, png: bytes) -> dict[str, Any]:
    if place is None:
        return {"shard": None, "offset": None, "size": len(png)}
    return {"shard": tar_name, "offset": place[0], "size": place[1]}
