"""The configuration tree: one pydantic model that is ``params.yaml`` (contract C1).

Every field carries its meaning and unit in ``description``; every default is the ``demo`` preset's. No secret
has a field here: credentials come from the environment (``AWS_*``, ``OPENAI_API_KEY``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
FilterName = Literal[
    "degenerate", "sharpness", "noise", "anatomy", "organs", "niqe", "labels", "agreement", "duplicate"
]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ColumnsConfig(Section):
    """Column names of ``corpus.kind: table``."""

    text: str = "text"
    """Report text (findings, or the whole report with section headings)."""
    image: str = "filename"
    """Image path relative to corpus.images (or corpus.path's folder); empty cells mean no image."""
    study: str | None = None
    """Study id; the row number when null."""
    patient: str | None = None
    """Patient id, the unit of the split; the study when null."""
    view: str | None = None
    """Projection (PA, AP, LATERAL, ...); unknown when null."""
    impression: str | None = None
    """A second text column, when findings and impression are apart."""
    mask: str | None = None
    """Path of a mask of the image's organs, relative like the image's; empty cells mean no mask. A mask has the image's
    size, 8 bits a pixel: 0 none, 1 right lung, 2 left lung, 3 heart."""


class CorpusConfig(Section):
    """Where reports and images come from, and how they are split."""

    kind: Literal["phantom", "openi", "table"] = "phantom"
    """phantom: the built-in generator; openi: the Open-i / Indiana layout; table: any CSV or Parquet."""
    path: str | None = None
    """Folder (openi) or file (table) that is read; null for the phantom."""
    images: str | None = None
    """Folder of the image files; null looks beside the table and in its images/ folder."""
    columns: ColumnsConfig = ColumnsConfig()
    n_studies: PositiveInt = 6400
    """Phantom only: how many studies are drawn."""
    max_studies: PositiveInt | None = None
    """Read at most this many studies; null reads all."""
    image_size: Literal[32, 64, 128, 256, 512] = 64
    """Side of the square images in pixels: shorter side resized to it, centre cropped."""
    views: Literal["frontal", "all"] = "frontal"
    """Which projections the models learn from; an unknown projection counts as frontal."""
    val_fraction: Fraction = 0.05
    """Share of patients held out for validation."""
    test_fraction: Fraction = 0.05
    """Share of patients held out for evaluation; never seen by training nor by the visual codebook."""
    judge_fraction: Fraction = 0.2
    """Share of patients from whom the labelling judge learns, and nothing else does: no other model, no vocabulary."""
    max_bad_fraction: Fraction = 0.02
    """More unreadable rows, images or masks than this share is an error; fewer are listed and skipped."""
    max_image_pixels: PositiveInt = 64_000_000
    """Larger images are refused before they are decoded."""

    @model_validator(mode="after")
    def _path_is_given(self) -> CorpusConfig:
        if self.kind != "phantom" and self.path is None:
            raise ValueError(f"corpus.path is needed for corpus.kind={self.kind}: set it to the data's place")
        if self.val_fraction + self.test_fraction + self.judge_fraction > 0.9:
            raise ValueError(
                "corpus.val_fraction + corpus.test_fraction + corpus.judge_fraction must leave 0.1 or more for training"
            )
        return self


class VocabularyConfig(Section):
    """Mining of anatomy and pathology terms."""

    min_studies: PositiveInt = 10
    """k-anonymity: a term seen in fewer patients never enters the vocabulary."""
    max_terms: PositiveInt = 500
    """At most this many terms of each kind, the commonest first."""


class OpenAIConfig(Section):
    """An OpenAI-compatible server; the key is read from OPENAI_API_KEY."""

    model: str = "gpt-4o-mini"
    """Model name sent with each request."""
    base_url: str | None = None
    """Server's /v1 address; null is the client's own default."""
    mode: Literal["direct", "batch"] = "direct"
    """direct: one answer a call, at once; batch: the Batch API, at half the price, within a day."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = 0.9
    """Sampling temperature of the language model; null isn't sent (reasoning models take none)."""
    timeout_s: PositiveFloat = 60.0
    """Limit of one request."""
    concurrency: PositiveInt = 4
    """Requests in flight."""
    prompts_per_call: PositiveInt = 5
    """How many prompts one request asks for; half as many each time they are asked for again."""
    tokens_per_prompt: PositiveInt = 200
    """Limit of an answer, a prompt; a reasoning model needs more."""
    max_retries: Count = 5
    """Retries of a transient failure (429, 5xx, time-out, reset), with jitter, or as long as Retry-After says."""
    max_wait_s: PositiveFloat = 120.0
    """A server that asks for a longer wait stops the run, which goes on when it is started again."""
    requests_per_minute: PositiveInt | None = None
    """Rate limit of calls; null: none."""
    tokens_per_minute: PositiveInt | None = None
    """Rate limit of input and output tokens; null: none."""
    usd_per_million_input: Annotated[float, Field(ge=0.0)] | None = None
    """Price of input tokens in the chosen mode; null: unknown."""
    usd_per_million_output: Annotated[float, Field(ge=0.0)] | None = None
    """Price of output tokens in the chosen mode; null: unknown."""
    budget_usd: Annotated[float, Field(gt=0.0)] | None = None
    """What this plan of prompts may cost over all its runs; needs the prices. null: no limit."""
    budget_tokens: PositiveInt | None = None
    """How many tokens this plan may use over all its runs; null: no limit."""
    batch_poll_s: PositiveFloat = 60.0
    """Batch API: how often its state is asked for."""
    batch_wait_h: PositiveFloat = 25.0
    """Batch API: how long a run waits; the next one goes on waiting for the same batch."""

    @model_validator(mode="after")
    def _budget_has_prices(self) -> OpenAIConfig:
        if self.budget_usd is not None and None in (self.usd_per_million_input, self.usd_per_million_output):
            raise ValueError(
                "budget_usd needs usd_per_million_input and usd_per_million_output; set them, or use budget_tokens"
            )
        return self


class LocalLLMConfig(Section):
    """A chat model run here: for a corpus whose terms forbid third-party services."""

    model: str | None = None
    """Folder or name of a causal language model of transformers, with its tokenizer."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.9
    """0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    max_new_tokens: PositiveInt = 200
    """Limit of an answer."""
    batch_size: PositiveInt = 8
    """Prompts written together."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 on a GPU that has it, else float32."""


class PromptsConfig(Section):
    """What is asked for: term sampling and the provider that writes the text."""

    n: PositiveInt = 60
    """Prompts to be written."""
    provider: Literal["template", "openai", "transformers"] = "template"
    """template writes offline from the vocabularies; openai asks a server; transformers runs a chat model here."""
    normal_fraction: Fraction | None = 0.15
    """Share of prompts without any finding; null takes the corpus' own share."""
    max_findings: PositiveInt = 2
    """At most this many findings in one prompt."""
    targets: dict[str, PositiveInt] = Field(default_factory=dict)
    """Finding, with a side or a severity if wanted ("large left pleural effusion") -> prompts that are led by it; the
    rest is sampled from the corpus."""
    min_together: PositiveInt = 2
    """Findings, or a finding and its place, that fewer studies show together are never asked for together."""
    smoothing: Fraction = 0.1
    """Share of findings whose severity is drawn apart from its place, so that pairs of the two that the corpus lacks
    are reached; 0 keeps to what was seen."""
    flatten: Fraction = 0.0
    """0: findings as often as in the corpus; 1: all equally often; between, counts to the power 1 - flatten."""
    max_attempts: PositiveInt = 4
    """How often a prompt is written at most, before it is rejected."""
    max_similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Of word trigrams (Jaccard): a prompt at least as similar to an earlier one is a near-duplicate. 1: equal ones."""
    openai: OpenAIConfig = OpenAIConfig()
    transformers: LocalLLMConfig = LocalLLMConfig()

    @model_validator(mode="after")
    def _local_model_named(self) -> PromptsConfig:
        if self.provider == "transformers" and self.transformers.model is None:
            raise ValueError("provider is transformers: set transformers.model to a chat model's folder")
        return self


class OptimiserConfig(Section):
    """One training loop."""

    steps: PositiveInt
    """Optimiser steps; the length of training is in steps so that it doesn't depend on the machine."""
    batch_size: PositiveInt
    """Samples a step, over all processes."""
    micro_batch: PositiveInt | None = None
    """Samples a forward pass of one process; gradients accumulate until batch_size is reached. null: no accumulation.
    The alignment's negatives come from one forward pass."""
    learning_rate: PositiveFloat
    """Peak rate, after warm-up; decays to a tenth by a cosine."""
    warmup_steps: Count = 50
    """Linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """AdamW weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient clipping."""
    checkpoint_every: PositiveInt = 200
    """Steps between checkpoints; a killed training resumes from the last. The one with the lowest held-out loss is
    kept in the end."""
    patience: Count = 0
    """Stop when this many checkpoints in a row didn't lower the held-out loss; 0 never stops early."""


def _check_eights(channels: tuple[int, ...]) -> None:
    bad = [c for c in channels if c % 8]
    if bad:
        raise ValueError(f"channels {bad} aren't multiples of 8")


class ClassifierConfig(Section):
    """A finding classifier, trained on labels mined from the reports: as ``models.classifier`` its features guide the
    VQ-GAN, as ``models.judge`` it learns from other patients and judges what was made."""

    channels: tuple[PositiveInt, ...] = (24, 48, 96)
    """Channels a stage, multiples of 8; each stage halves the resolution."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """Dropout before the head."""
    train: OptimiserConfig = OptimiserConfig(steps=420, batch_size=64, learning_rate=4e-3, warmup_steps=100)

    @model_validator(mode="after")
    def _groups_divide(self) -> ClassifierConfig:
        _check_eights(self.channels)
        return self


class SegmenterConfig(Section):
    """The U-Net that finds lungs and heart, trained beside the judge where the corpus has masks."""

    channels: tuple[PositiveInt, ...] = (16, 32, 48, 64)
    """Channels a level, multiples of 8; each level halves the resolution, from 32 cells a side."""
    train: OptimiserConfig = OptimiserConfig(steps=400, batch_size=32, learning_rate=4e-3, warmup_steps=20)

    @model_validator(mode="after")
    def _levels_fit(self) -> SegmenterConfig:
        _check_eights(self.channels)
        if not 1 <= len(self.channels) <= 5:
            raise ValueError(f"{len(self.channels)} levels; 32 cells can be halved at most four times")
        return self


class VQGANConfig(Section):
    """Image tokeniser: a convolutional VQ-GAN."""

    channels: tuple[PositiveInt, ...] = (16, 32, 64, 64)
    """Channels a resolution level; n levels downsample by 2**(n-1)."""
    layers_per_block: PositiveInt = 1
    """Residual blocks a level."""
    norm_groups: PositiveInt = 8
    """Groups of the group norms; must divide every channel count."""
    codes: PositiveInt = 256
    """Codebook entries; equals the number of image tokens in the LLM."""
    code_dim: PositiveInt = 16
    """Width of a codebook entry."""
    commitment_weight: PositiveFloat = 0.25
    """Weight of the commitment term."""
    adversarial_weight: Annotated[float, Field(ge=0.0)] = 0.1
    """Weight of the patch discriminator, scaled adaptively; 0 leaves it out."""
    adversarial_start: Count = 320
    """First step of the adversarial term."""
    clinical_weight: Annotated[float, Field(ge=0.0)] = 3.0
    """Weight of the clinical-information-preserving term: squared distance of classifier features, relative to
    their size; 0 leaves it out."""
    clinical_model: str | None = None
    """Name or folder of a transformers image encoder for that term; null takes our own finding classifier."""
    perceptual_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of a perceptual term on the features of perceptual_model."""
    perceptual_model: str | None = None
    """Name or folder of a transformers image encoder; null: the early stages of the clinical term stand in."""
    train: OptimiserConfig = OptimiserConfig(steps=400, batch_size=8, learning_rate=3e-3)

    @property
    def downsampling(self) -> int:
        """Image side over latent side."""
        return int(2 ** (len(self.channels) - 1))

    @model_validator(mode="after")
    def _groups_divide(self) -> VQGANConfig:
        bad = [c for c in self.channels if c % self.norm_groups]
        if bad:
            raise ValueError(f"channels {bad} aren't multiples of norm_groups={self.norm_groups}")
        if self.perceptual_weight > 0 and self.perceptual_model is None:
            raise ValueError("perceptual_weight needs perceptual_model: name an image encoder, or set the weight to 0")
        return self


class AlignmentConfig(Section):
    """Word-patch alignment encoders and the visual codebook (paper, module 2)."""

    text_model: str | None = None
    """Name or folder of a transformers encoder; null trains a small BERT from scratch."""
    dim: PositiveInt = 128
    """Width of the joint space."""
    text_layers: PositiveInt = 2
    text_heads: PositiveInt = 4
    image_channels: tuple[PositiveInt, ...] = (32, 64, 128)
    """Channels of the patch encoder's stages; the grid is the VQ-GAN's latent grid."""
    max_text_tokens: PositiveInt = 112
    """Reports are cut to this many tokens (CAMMAL's value)."""
    temperature: PositiveFloat = 0.07
    """Start of the learnable temperature."""
    global_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the global (report-image) contrastive loss beside the local one."""
    codebook_size: PositiveInt = 4096
    """Patches kept in the visual codebook."""
    codebook_min_patients: PositiveInt = 3
    """A patch enters only when look-alikes from this many patients exist (privacy)."""
    train: OptimiserConfig = OptimiserConfig(steps=250, batch_size=64, learning_rate=1e-3)


class LoRAConfig(Section):
    """Low-rank adapters on every linear layer (peft); merged into the weights when training ends."""

    rank: Count = 0
    """0 trains all weights."""
    alpha: PositiveInt = 32
    """Scale of the update, over the rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05


class LLMConfig(Section):
    """Causal language model over text, keypatch and image tokens."""

    base: str | None = None
    """Name or folder of a pretrained causal LM; null trains a small Llama from scratch."""
    hidden: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    max_text_tokens: PositiveInt = 112
    """Prompt text is cut to this many tokens."""
    keypatches: Count = 8
    """Reference tokens: keypatch codes given to the LLM, in rank order; 0 leaves the block out."""
    keypatch_choice: Literal["aligned", "random"] = "aligned"
    """aligned: the patches that answer best to the findings; random: any, to measure what alignment is worth."""
    condition: Literal["report", "labels"] = "report"
    """report: the text; labels: the names of its pathologies alone, to measure what the text is worth."""
    condition_dropout: Fraction = 0.1
    """Share of training samples without text and keypatches: the unconditional side of guidance."""
    text_dropout: Fraction = 0.0
    """Share of the others without their text."""
    keypatch_dropout: Fraction = 0.0
    """Share of the others without their keypatches."""
    text_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the report's own tokens in the loss, beside 1 for the image's."""
    reverse_fraction: Fraction = 0.0
    """Share of training samples that write the report from the image tokens instead (LLM-CXR's other direction)."""
    lora: LoRAConfig = LoRAConfig()
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    train: OptimiserConfig = OptimiserConfig(steps=850, batch_size=16, learning_rate=3e-3, checkpoint_every=100)


class ModelsConfig(Section):
    """The models, trained in this order."""

    path: str | None = None
    """Folder with trained models (vqgan/, alignment/, llm/) to be used as they are; null trains them."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of training; weights stay float32. auto: bf16 on a GPU that has it, else float32."""
    classifier: ClassifierConfig = ClassifierConfig()
    judge: ClassifierConfig = ClassifierConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    vqgan: VQGANConfig = VQGANConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    llm: LLMConfig = LLMConfig()


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
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the language model. auto: bf16 on a GPU that has it, else float32. A CPU that multiplies bf16
    itself (AVX512-BF16, AMX) decodes a large model some 1.5 times as fast with it."""
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.92
    top_k: Count = 0
    """0: no top-k."""
    guidance: Annotated[float, Field(ge=1.0)] = 3.0
    """Classifier-free guidance scale on the logits; 1 is none."""
    view: Literal["frontal", "lateral"] = "frontal"
    """Projection that is asked for."""
    seed: Count = 0
    """Changes every image's random stream."""


class QualityConfig(Section):
    """Thresholds of the filters. A quantile is the share of real held-out images, as the VQ-GAN renders them, that lie
    beyond the bound, so that a setting means the same on every corpus."""

    min_contrast: Annotated[float, Field(ge=0.0, le=127.5)] = 8.0
    """Degenerate: standard deviation in grey levels (0..255) below which an image is blank."""
    clipped_quantile: Fraction = 0.005
    """Degenerate: share of pixels that are exactly 0 or 255."""
    sharpness_quantile: Fraction = 0.005
    """Sharpness: energy of the Laplacian; less is blurred."""
    noise_quantile: Fraction = 0.005
    """Noise: standard deviation of the grain."""
    anatomy_quantile: Fraction = 0.005
    """Anatomy: distance of the thumbnail from the usual one; shifted, inverted, framed, an organ missing."""
    organs_quantile: Fraction = 0.02
    """Organs: distance of both lungs and heart from their usual size, shape and place; of frontal images, where the
    corpus has masks."""
    niqe_quantile: Fraction = 0.005
    """NIQE against the corpus' own statistics."""
    labels_quantile: Fraction = 0.03
    """Labels: improbability of the prompted findings and sides by the labelling judge."""
    margin: Annotated[float, Field(ge=0.0)] = 0.5
    """The bounds of the seven above lie farther from the median by this share of the quantile's distance: few held-out
    images don't reach far into the tail."""
    training_copy_quantile: Fraction = 0.002
    """Near-duplicate: an image is a copy of a training image when it comes, registered, nearer to it than all but this
    share of real held-out images come to their nearest one."""
    copy_quantile: Fraction = 0.01
    """Near-duplicate: an image is a copy of another image of the release when it comes nearer to it than all but this
    share of real held-out images come to their nearest training image."""
    agreement_quantile: Fraction = 0.005
    """Prompt-image agreement: an image must score above this quantile of real held-out pairs."""
    enabled: tuple[FilterName, ...] = (
        "degenerate",
        "sharpness",
        "noise",
        "anatomy",
        "organs",
        "labels",
        "agreement",
        "duplicate",
    )
    """Which run; the order is always degenerate, sharpness, noise, anatomy, organs, niqe, labels, agreement, duplicate:
    cheap ones first. Left out here: niqe, which costs and catches nothing that the others miss."""


Limit = Annotated[float, Field(ge=0.0, le=1.0)]


class RiskLimits(Section):
    """A figure above its limit that chance doesn't explain forbids to publish; null never does. docs/privacy.md says
    what images get that copy nobody."""

    near_copies: Limit | None = 0.1
    """Share of the made images that the copy filters rejected as near-copies of training images."""
    nearer_to_training: Limit | None = 0.7
    """Share of images nearer to training images than to as many held-out ones."""
    membership_auc: Limit | None = 0.6
    """AUC of telling training images from held-out ones by the released images; of any attacker, in any space."""
    membership_tpr: Limit | None = 0.1
    """Share of training images found so at 1 % of false alarms."""
    keypatch_leakage: Limit | None = 0.05
    """Share of keypatches whose surroundings the image repeats."""


class PrivacyConfig(Section):
    """How much of the training images a release may give away (docs/privacy.md)."""

    max_images: PositiveInt = 5000
    """Synthetic images that are compared, chosen by their ids when there are more."""
    min_images: Annotated[int, Field(ge=10)] = 50
    """Of fewer images, synthetic, training or held-out, no figure is given."""
    limits: RiskLimits = RiskLimits()


class StoreConfig(Section):
    """Where shards and releases go (contract C9)."""

    url: str = "store"
    """A local path (relative to the workspace) or s3://bucket/prefix."""
    endpoint_url: str | None = None
    """Address of an S3-compatible server; null is AWS."""
    region: str | None = None


class ReleaseConfig(Section):
    """What the release is called and what its description says of it."""

    name: str = Field(default="synthetic-cxr", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Dataset name; tags are NAME-vN."""
    split: Literal["train", "val", "test"] = "train"
    """Value of the manifest's split column."""
    parent: str | None = None
    """Tag of an earlier release of the same store, whose images stay and which is added to; null starts afresh."""
    quotas: dict[str, PositiveInt] = Field(default_factory=dict)
    """Finding, with side, severity or view if wanted ("large left pleural effusion", "lateral pneumothorax", "normal")
    -> at least so many accepted images, the parent's included; more is made until there are."""
    max_attempts: PositiveInt = 4
    """A quota that isn't met with this many made images for each one that it wants is an error."""
    license: str = Field(default="other", pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")
    """Licence that you release under, as SPDX or Hugging Face call it; other: one of your own, or none yet. The
    corpus' licence may forbid to choose: the dataset card states both."""
    license_link: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Address of the licence's text."""
    publisher: str | None = None
    """Name of the team that releases."""
    url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Address of the page where the dataset lives."""


class EvaluationConfig(Section):
    """Comparison of a release with the held-out real images (split test)."""

    extractors: tuple[
        Annotated[str, Field(pattern=r"^(judge|classifier|inception(:.+)?|torchxrayvision:.+|transformers:.+)$")],
        ...,
    ] = ("judge",)
    """Networks whose features are compared: judge, the labelling judge; classifier, the one that guided the VQ-GAN;
    inception, the FID's, with weights from torch's cache, or inception:FILE; torchxrayvision:FILE, a DenseNet-121 of
    theirs; transformers:NAME, an image encoder by name or folder (RAD-DINO, ...)."""
    judges: tuple[Annotated[str, Field(pattern=r"^(judge|torchxrayvision:.+)$")], ...] = ("judge",)
    """Who looks for the prompted findings: judge, the labelling judge, in pathologies and the places where they lie;
    torchxrayvision:FILE, in the pathologies that it knows."""
    max_images: PositiveInt = 2500
    """Images a side (synthetic, training, held-out), chosen at random when there are more. The features of all are held
    in memory."""
    min_images: Annotated[int, Field(ge=10)] = 20
    """Of fewer images, synthetic or real, no figure is given."""
    batch_size: PositiveInt = 64
    """Images read and encoded together."""
    neighbours: PositiveInt = 5
    """k of precision, recall, density and coverage."""
    kid_subsets: Annotated[int, Field(ge=2)] = 50
    """Random subsets over which KID is averaged."""
    kid_subset_size: PositiveInt = 1000
    """A subset has half the images, and no more than this."""
    similarity_pairs: PositiveInt = 100
    """Pairs of images a class at most whose MS-SSIM is taken."""
    map_images: PositiveInt = 1000
    """Images a side on the t-SNE map at most."""

    @model_validator(mode="after")
    def _neighbours_exist(self) -> EvaluationConfig:
        if self.neighbours >= self.min_images:
            raise ValueError(f"neighbours={self.neighbours} needs min_images above it, found {self.min_images}")
        return self


class UtilityConfig(Section):
    """What a release is worth to a trainer: classifiers trained on real images, on synthetic ones, and on both."""

    shares: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = ()
    """Shares of the real training patients that the classifiers have; none: it isn't measured, since it trains four
    classifiers a share and seed."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """Repetitions, each with other patients and other weights."""
    steps: PositiveInt = 240
    """Steps of each training."""
    max_images: PositiveInt = 20_000
    """Images of the release at most."""


class ReportConfig(Section):
    """The HTML page of a release."""

    gallery_images: PositiveInt = 96
    """Accepted images that it shows at most; fewer where they would make it heavy."""
    training_images: bool = False
    """Also write a page that shows the training image nearest to each, which the corpus' licence must allow; it stays
    in the workspace. The phantom's are always shown."""


class RunnerConfig(Section):
    """How shards are spread (contract C10); changes no image."""

    kind: Literal["threads", "processes", "ray", "dask"] = "threads"
    """Prefect task runner: threads in one process, with one GPU; processes on one machine, each with a GPU and a share
    of the cores; or a cluster through prefect-ray / prefect-dask."""
    in_flight: PositiveInt = 2
    """Shards in work at once. In one process a second one fills the time of the first one's upload; a third gains some
    5 % beside a GPU and nothing elsewhere. Of processes, each has one."""
    processes: PositiveInt | None = None
    """Worker processes of kind processes; null: one a GPU, or one."""
    address: str | None = None
    """Cluster address for ray and dask; null starts a local one."""
    retries: Count = 3
    """Retries of a transient failure of one shard."""


class Config(Section):
    """params.yaml, whole."""

    seed: Count = 0
    """Seeds the phantom, the split, training and prompt sampling."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    corpus: CorpusConfig = CorpusConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    prompts: PromptsConfig = PromptsConfig()
    models: ModelsConfig = ModelsConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    quality: QualityConfig = QualityConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    store: StoreConfig = StoreConfig()
    release: ReleaseConfig = ReleaseConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    utility: UtilityConfig = UtilityConfig()
    report: ReportConfig = ReportConfig()
    runner: RunnerConfig = RunnerConfig()

    @property
    def latent_side(self) -> int:
        """Side of the token grid; an image has its square of tokens."""
        return self.corpus.image_size // self.models.vqgan.downsampling

    @model_validator(mode="after")
    def _grid_fits(self) -> Config:
        if self.corpus.image_size % self.models.vqgan.downsampling or self.latent_side < 2:
            raise ValueError(
                f"corpus.image_size={self.corpus.image_size} can't be downsampled by "
                f"{self.models.vqgan.downsampling} (models.vqgan.channels has "
                f"{len(self.models.vqgan.channels)} levels)"
            )
        if len(self.models.alignment.image_channels) != len(self.models.vqgan.channels) - 1:
            raise ValueError(
                f"models.alignment.image_channels has {len(self.models.alignment.image_channels)} stages; "
                f"its grid is the VQ-GAN's when it has {len(self.models.vqgan.channels) - 1}"
            )
        return self
