"""Identity of what is made (contract C2): spec_hash, run_id, image ids and their random streams.

``spec_hash`` covers everything that determines the images and nothing else: prompts, weights of the models that draw,
sampling settings with the precision that they resolve to, format version. The judge, filters and their bounds, shards,
workers, store and runner are not in it. A ``run_id`` is of one spec, one partition into shards and one set of verdicts:
the enabled filters' names, versions and settings, and what they compare with.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.hashing import sha256_json
from medsynth_core.synthesis.settings import SynthesisConfig

FORMAT_VERSION = 2
"""Raised when the same prompts and models would make other images."""


@dataclass(frozen=True)
class ImageRequest:
    """One image that is asked for: sample ``sample`` of prompt ``prompt_index``."""

    image_id: str
    prompt_index: int
    sample: int


@dataclass(frozen=True)
class ShardPlan:
    """A partition of requested images into shards.

    Attributes:
        spec_hash: identity of the images.
        run_id: spec_hash and a digest of the partition and of how images are judged: completion records of one run_id
            may be mixed, others not.
        prompt_ids: all prompts, in order.
        samples: (first sample, how many) of each prompt.
        shard_images: requested a shard; the last may have fewer.
    """

    spec_hash: str
    run_id: str
    prompt_ids: tuple[str, ...]
    samples: tuple[tuple[int, int], ...]
    shard_images: int

    @cached_property
    def _ends(self) -> list[int]:
        """How many images are asked of each prompt and all before it."""
        return list(accumulate(n for _, n in self.samples))

    @property
    def n_images(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def n_shards(self) -> int:
        return -(-self.n_images // self.shard_images)

    def name(self, shard: int) -> str:
        """Returns what a shard's files are called: unlike those of any other run, so that releases can be added up."""
        return f"{hashlib.sha256(self.run_id.encode()).hexdigest()[:8]}-{shard:05d}"

    def requests(self, shard: int) -> list[ImageRequest]:
        """Returns the images of one shard, in order of prompt, then sample."""
        start = shard * self.shard_images
        return [self._request(place) for place in range(start, min(start + self.shard_images, self.n_images))]

    def _request(self, place: int) -> ImageRequest:
        prompt = bisect_right(self._ends, place)
        first, n = self.samples[prompt]
        sample = first + place - (self._ends[prompt] - n)
        return ImageRequest(image_id(self.spec_hash, self.prompt_ids[prompt], sample), prompt, sample)


@dataclass(frozen=True)
class RunIdentity:
    """What a run makes and by what it judges; found out once and passed on.

    Attributes:
        spec_hash: identity of the images.
        verdicts: digest of the enabled filters' names, versions and settings, and of what they compare with.
        model_digests: vqgan, alignment and llm.
        judge_sha256: of the labelling judge and of the training images: features of the same digest can be compared.
        quality: the enabled filters and their settings, as a release records them.
        bounds: what their quantiles come to.
    """

    spec_hash: str
    verdicts: str
    model_digests: dict[str, str]
    judge_sha256: str
    quality: dict[str, Any]
    bounds: dict[str, float]


def spec_hash(
    prompts: Sequence[Mapping[str, object]],
    model_digests: Mapping[str, str],
    settings: SynthesisConfig,
    precision: str,
    parent: str | None = None,
) -> str:
    """Returns the hex identity of a run's images.

    Args:
        prompts: what conditions each image, as ``PromptRow.identity`` gives it.
        model_digests: vqgan, alignment and llm.
        settings: of which only the sampling fields count.
        precision: what ``settings.precision`` resolves to where the images are made.
        parent: hash of the release that is extended: what is added to it are other images.
    """
    sampling = settings.model_dump(include={"temperature", "top_p", "top_k", "guidance", "seed"})
    what = [FORMAT_VERSION, list(prompts), dict(model_digests), sampling | {"precision": precision}]
    return sha256_json(what if parent is None else [*what, parent])[:32]


def verdict_digest(quality: Mapping[str, Any], versions: Mapping[str, int], compared: str) -> str:
    """Returns the hex identity of how images are judged.

    Args:
        quality: ``recorded`` settings of the enabled filters.
        versions: of each of them.
        compared: digest of what they compare with.
    """
    return sha256_json([quality, dict(versions), compared])[:32]


def plan_shards(
    identity: RunIdentity,
    prompt_ids: Sequence[str],
    samples: Sequence[tuple[int, int]],
    settings: SynthesisConfig,
    split: str,
) -> ShardPlan:
    """Returns the partition of so many samples of each prompt, (first, how many); ``split`` is written with them."""
    partition = settings.model_dump(include={"shard_images", "max_shard_bytes"}) | {"split": split}
    plan = sha256_json([partition, identity.verdicts, list(prompt_ids), list(samples)])[:12]
    spec = identity.spec_hash
    return ShardPlan(spec, f"{spec}-{plan}", tuple(prompt_ids), tuple(samples), settings.shard_images)


def image_id(spec: str, prompt_id: str, sample: int) -> str:
    """Returns the id of one image, 24 hex digits."""
    return hashlib.sha256(f"{spec}:{prompt_id}:{sample}".encode()).hexdigest()[:24]


def image_seed(identity: str) -> int:
    """Returns the seed of an image's random stream, in [0, 2**63)."""
    return int(identity[:16], 16) >> 1


def uniforms(ids: Sequence[str], n_tokens: int) -> npt.NDArray[np.float32]:
    """Returns one uniform draw in [0, 1) a token, float32 [images, tokens], each row seeded by its image_id.

    A counter-based generator draws them, so that they don't depend on batch, shard, worker or device.
    """
    rows = [np.random.Generator(np.random.Philox(key=image_seed(identity))).random(n_tokens) for identity in ids]
    return np.stack(rows).astype(np.float32)
