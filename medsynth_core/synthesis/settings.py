"""Settings of decoding, of sharding and of what runs the shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.section import Count, Device, Precision, Section, View
from medsynth_core.filters import QualityConfig

Split = Literal["train", "val", "test"]
"""What a release says it is for."""


class SynthesisConfig(Section):
    """Decoding and sharding."""

    samples_per_prompt: PositiveInt = 8
    """Images an accepted prompt."""
    shard_images: PositiveInt = 64
    """Images requested a shard; a shard is the unit of work, of retry and of resume."""
    max_shard_bytes: PositiveInt = 512_000_000
    """A shard that grows beyond this is an error that names shard_images."""
    batch_size: PositiveInt | None = None
    """Images decoded together at most; changes no image but by rounding. null: as many as memory holds."""
    precision: Precision = "auto"
    """Arithmetic of the language model. auto: bf16 on a GPU that has it, else float32. A CPU that multiplies bf16
    itself (AVX512-BF16, AMX) decodes a large model some 1.5 times as fast with it."""
    temperature: PositiveFloat = 1.0
    """Of sampling: below 1 images are more alike, above 1 they vary more and break more often."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """Tokens are drawn from the most probable ones that make up this share."""
    top_k: Count = 0
    """0: no top-k."""
    guidance: Annotated[float, Field(ge=1.0)] = 1.5
    """Classifier-free guidance scale on the logits; 1 is none."""
    view: View = "frontal"
    """Projection that is asked for."""
    seed: Count = 0
    """Changes every image's random stream."""


RunnerKind = Literal["threads", "processes", "ray", "dask", "kubernetes", "slurm"]


class RunnerConfig(Section):
    """How shards are spread (contract C10); changes no image."""

    kind: RunnerKind = "threads"
    """Threads in one process, with one GPU; processes on one machine, each with a GPU and a share of the cores; or
    workers that have nothing but the store: on a Ray or Dask cluster, as an Indexed Job on Kubernetes, as an array of
    Slurm."""
    in_flight: PositiveInt = 2
    """Shards in work at once. In one process a second one fills the time of the first one's upload; a third gains some
    5 % beside a GPU and nothing elsewhere. Of processes, each has one."""
    processes: PositiveInt | None = None
    """Worker processes of kind processes; null: one a GPU, or one."""
    workers: PositiveInt | None = None
    """Workers of a cluster; null: on Ray and Dask one a GPU, without GPUs one a node. Kubernetes and Slurm need it."""
    address: str | None = None
    """Of the Ray or Dask cluster; null starts a local one."""
    job: str | None = None
    """File of the Kubernetes Job, or the Slurm batch script, that runs `medsynth work`; infra/ has one of each."""
    retries: Count = 3
    """Retries of a transient failure of one shard; of a cluster, how often a lost worker is started again."""
    lost_after_s: PositiveFloat = 600.0
    """Seconds after which a cluster's attempt at a shard counts as lost of which nothing is heard."""
    pages_url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Address at which a web server shows the store's folder `reports`, for links in Prefect. null: an S3 store signs
    links for a week, a folder has none."""


@dataclass(frozen=True)
class SynthesisParams(Params):
    """What stage ``synthesis`` reads of params.yaml.

    Attributes:
        split, parent, quotas, max_attempts: of the release that is made.
    """

    synthesis: Annotated[SynthesisConfig, Param(but=("batch_size",))]
    quality: QualityConfig
    split: Annotated[Split, Param("release.split")]
    parent: Annotated[str | None, Param("release.parent")]
    quotas: Annotated[dict[str, int], Param("release.quotas")]
    max_attempts: Annotated[int, Param("release.max_attempts")]
    in_flight: Annotated[int, Param("runner.in_flight", changes_output=False)]
    device: Annotated[Device, Param(changes_output=False)]
