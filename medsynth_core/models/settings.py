"""Settings of the models and of their trainings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medsynth_core.config.section import Count, Fraction, Precision, Section, Tracker


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


def check_eights(channels: tuple[int, ...]) -> None:
    """Raises ValueError where a number of channels is no multiple of 8."""
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
        check_eights(self.channels)
        return self


class SegmenterConfig(Section):
    """The U-Net that finds lungs and heart, trained beside the judge where the corpus has masks."""

    channels: tuple[PositiveInt, ...] = (16, 32, 48, 64)
    """Channels a level, multiples of 8; each level halves the resolution, from 32 cells a side."""
    train: OptimiserConfig = OptimiserConfig(steps=400, batch_size=32, learning_rate=4e-3, warmup_steps=20)

    @model_validator(mode="after")
    def _levels_fit(self) -> SegmenterConfig:
        check_eights(self.channels)
        if not 1 <= len(self.channels) <= 5:
            raise ValueError(f"{len(self.channels)} levels; 32 cells can be halved at most four times")
        return self


class VQGANConfig(Section):
    """Image tokeniser: a convolutional VQ-GAN."""

    base: str | None = None
    """Pretrained image tokenizer, fine-tuned for train.steps: name or folder of diffusers' VQModel or of transformers'
    Chameleon, Janus or Emu3, or LlamaGen's as a safetensors file. Its shape is its own: channels to linear and
    grain_channels count for nothing. null trains ours from scratch."""
    channels: tuple[PositiveInt, ...] = (32, 64, 96)
    """Channels a resolution level; n levels downsample by patch * 2**(n-1)."""
    patch: Literal[1, 2, 4] = 2
    """Pixels a side that the first layer takes together, and the last one gives. 2 makes room for three times the
    channels in the same time on a CPU; 4 leaves a grid to be seen."""
    layers_per_block: PositiveInt = 1
    """Residual blocks a level."""
    norm_groups: PositiveInt = 8
    """Groups of the group norms; must divide every channel count."""
    codes: PositiveInt = 1024
    """Codebook entries of a level."""
    levels: PositiveInt = 1
    """Codes of a latent cell: each level codes what those before it leave over. An image has cells x levels tokens."""
    code_dim: PositiveInt = 16
    """Width of a codebook entry."""
    linear: bool = True
    """Begin as the best linear code of a cell's pixels, principal components and k-means, fitted to training images
    before the first step: what the network would need thousands of steps for it has from the start."""
    commitment_weight: PositiveFloat = 1.0
    """Weight of the commitment term."""
    adversarial_weight: Annotated[float, Field(ge=0.0)] = 0.1
    """Weight of the patch discriminator, scaled adaptively; 0 leaves it out."""
    adversarial_start: Count = 400
    """First step of the adversarial term."""
    grain_channels: Count = 16
    """Width of the network that adds what codes can't carry, the detector's noise and the finest texture; 0 leaves it
    out. It learns from the spectral and the adversarial term."""
    spectral_weight: Annotated[float, Field(ge=0.0)] = 0.1
    """Weight of the spectral term: the distance of the log power of windows of both images, by frequency, which tells
    blur and noise; 0 leaves it out."""
    jitter: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """How far training images are moved at random: at 1 turned by 6 degrees, scaled by 8 %, shifted by 3 % of the side,
    their grey curve bent by a fifth; 0: not at all."""
    clinical_weight: Annotated[float, Field(ge=0.0)] = 3.0
    """Weight of the clinical-information-preserving term: squared distance of classifier features, relative to
    their size; 0 leaves it out."""
    clinical_model: str | None = None
    """Name or folder of a transformers image encoder for that term; null takes our own finding classifier."""
    perceptual_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of a perceptual term on the features of perceptual_model."""
    perceptual_model: str | None = None
    """Name or folder of a transformers image encoder; null: the early stages of the clinical term stand in."""
    train: OptimiserConfig = OptimiserConfig(steps=500, batch_size=8, learning_rate=1e-3)

    @property
    def downsampling(self) -> int:
        """Image side over latent side."""
        return int(self.patch * 2 ** (len(self.channels) - 1))

    @model_validator(mode="after")
    def _groups_divide(self) -> VQGANConfig:
        bad = [c for c in self.channels if c % self.norm_groups]
        if bad:
            raise ValueError(f"channels {bad} aren't multiples of norm_groups={self.norm_groups}")
        if self.linear and self.code_dim > self.downsampling**2:
            raise ValueError(
                f"code_dim={self.code_dim} is more than a cell's {self.downsampling**2} pixels, which the linear part "
                f"codes: lower it, or set linear to false"
            )
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


def grid_problem(image_size: int, downsampling: int, alignment: AlignmentConfig, whence: str) -> str | None:
    """Returns why images can't be laid out in the cells of an image tokenizer, or the alignment's patches aren't those
    cells; None where they can and are.

    Args:
        whence: what of params.yaml the downsampling comes from.
    """
    if image_size % downsampling or image_size < 2 * downsampling:
        return f"corpus.image_size={image_size} can't be downsampled by {downsampling} ({whence})"
    stages, wanted = len(alignment.image_channels), downsampling.bit_length() - 1
    if stages != wanted:
        return (
            f"models.alignment.image_channels has {stages} stages; its grid is the image tokenizer's when it has "
            f"{wanted} ({whence})"
        )
    return None


class LoRAConfig(Section):
    """Low-rank adapters on every linear layer (peft); merged into the weights when training ends."""

    rank: Count = 0
    """0 trains all weights."""
    alpha: PositiveInt = 32
    """Scale of the update, over the rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05


class DistilConfig(Section):
    """Guidance distillation: after training, the model learns to write without guidance what it wrote with it, so that
    images don't cost a second sequence each. Then set synthesis.guidance to 1."""

    steps: Count = 0
    """Optimiser steps; 0 leaves it out."""
    guidance: Annotated[float, Field(gt=1.0)] = 3.0
    """The guidance that is learnt, as synthesis.guidance."""
    batch_size: PositiveInt = 16
    """Pairs a step."""
    learning_rate: PositiveFloat = 1e-3
    """Peak rate."""


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
    written_texts: Fraction = 0.0
    """Share of training samples whose text is written from the study's findings, as prompts are by the templates, in
    place of its report. For corpora whose texts are no prose, such as lists of labels: the model can't read prompts
    otherwise."""
    condition_dropout: Fraction = 0.1
    """Share of training samples without text and keypatches: the unconditional side of guidance."""
    text_dropout: Fraction = 0.0
    """Share of the others without their text."""
    keypatch_dropout: Fraction = 0.0
    """Share of the others without their keypatches."""
    text_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the report's own tokens in the loss, beside 1 for the image's."""
    jitter: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """As models.vqgan.jitter; images are then encoded anew in every step. For corpora of few films."""
    reverse_fraction: Fraction = 0.0
    """Share of training samples that write the report from the image tokens instead (LLM-CXR's other direction)."""
    distil: DistilConfig = DistilConfig()
    lora: LoRAConfig = LoRAConfig()
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    train: OptimiserConfig = OptimiserConfig(steps=1000, batch_size=16, learning_rate=3e-3, checkpoint_every=100)

    @model_validator(mode="after")
    def _labels_are_not_written(self) -> LLMConfig:
        if self.condition == "labels" and self.written_texts:
            raise ValueError("written_texts is of condition=report; labels are read as they are")
        return self


class ModelsConfig(Section):
    """The models, trained in this order."""

    path: str | None = None
    """Folder with trained models (vqgan/, alignment/, llm/) to be used as they are; null trains them."""
    precision: Precision = "auto"
    """Arithmetic of training; weights stay float32. auto: bf16 on a GPU that has it, and on a CPU that multiplies it by
    itself (AVX512-BF16, AMX), else float32."""
    tracker: Tracker | None = None
    """Also tell this program, whose package must be installed, how a training goes; its files lie in
    .medsynth/tracking."""
    classifier: ClassifierConfig = ClassifierConfig()
    judge: ClassifierConfig = ClassifierConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    vqgan: VQGANConfig = VQGANConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    llm: LLMConfig = LLMConfig()
