"""Training of the language model: predict an image's tokens from its report and keypatches."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import DistributedType
from safetensors import safe_open
from torch import nn

from medsynth_core.config import Paths
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.models.rendering import rendered
from medsynth_core.models.settings import LLMConfig
from medsynth_core.models.text import load_tokenizer
from medsynth_core.models.tokenizers import ImageTokenizer, load_image_tokenizer
from medsynth_core.progress import Progress
from medsynth_core.random import seed_of, stream
from medsynth_core.training.curve import Row, forecast
from medsynth_core.training.distil import distil
from medsynth_core.training.examples import Examples
from medsynth_core.training.finish import (
    TrainingReport,
    checkpoint_path,
    draw_rows,
    drop_checkpoint,
    finish,
    picture_path,
)
from medsynth_core.training.jitter import DRAWS
from medsynth_core.training.loop import Batch, Losses, Objective, Trained, make_accelerator, train
from medsynth_core.training.pairs import read_pairs
from medsynth_core.training.settings import LLMParams
from medsynth_core.vocabulary.phrasing import Phrasing
from medsynth_core.vocabulary.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_HARDLY_LEARNT = 0.8
"""Share of a blind guess's loss above which samples show no anatomy."""
_JUDGED = 64
"""Held-out pairs that judge a checkpoint."""
_SHOWN, _DRAWN = 8, 2
"""Held-out pairs whose conditions images are drawn under at each checkpoint, and images of each."""


def run(params: LLMParams, paths: Paths, progress: Progress, *, key: str) -> TrainingReport:
    """Trains the language model on the training pairs and writes it.

    Raises:
        InputError: there are no training pairs, or an earlier model is missing.
        StateError: training diverged.
    """
    settings = params.llm
    accelerator = make_accelerator(params)
    device = accelerator.device
    image_tokenizer = load_image_tokenizer(paths["vqgan"]).to(device)
    alignment = AlignmentModel.load(paths["alignment"]).to(device)
    codebook = VisualCodebook.load(paths["alignment"] / "codebook")
    pairs, held_out_pairs = read_pairs(paths, "train"), read_pairs(paths, "val")
    tokenizer = load_tokenizer(settings.base or paths["alignment"] / "tokenizer")

    def fresh() -> tuple[ImageLanguageModel, Callable[[], None]]:
        torch.manual_seed(seed_of(params.seed, "llm"))
        model = ImageLanguageModel.fresh(
            settings, alignment.side**2, image_tokenizer.codes, tokenizer, image_tokenizer.levels
        )
        if device.type == "cpu":
            model.lm.set_attn_implementation("eager")  # the fused one's way back takes a third of a step in bf16
        merge = add_adapters(model, settings)
        return model.to(device), merge

    model, merge_adapters = fresh()
    if settings.gradient_checkpointing:
        model.lm.gradient_checkpointing_enable()
    phrasing = Phrasing(Vocabulary.load(paths["vocabulary"] / "vocabulary.json"))
    examples = Examples(pairs, image_tokenizer, alignment, codebook, settings, phrasing)
    held_out = Examples(held_out_pairs, image_tokenizer, alignment, codebook, settings, phrasing)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    foreboding = _Foreboding(settings.train.steps, image_tokenizer.codes // image_tokenizer.levels, len(pairs))

    def look(curve: Sequence[Row]) -> None:
        foreboding(curve)
        if not sharded:
            draw_samples(model, held_out, image_tokenizer, picture_path(checkpoint_path(paths, "llm")))

    trained = train(
        [Objective("llm", model, lambda module, batch: _loss(module, model, batch, examples), betas=(0.9, 0.95))],
        len(pairs),
        settings.train,
        accelerator=accelerator,
        key=key,
        seed=params.seed,
        checkpoint=checkpoint_path(paths, "llm"),
        progress=progress,
        validate=lambda: image_loss(model, held_out, lambda i: held_out.prefix(model, i), _JUDGED),
        at_checkpoint=look,
    )
    if sharded:
        model, merge_adapters = fresh()
        _load_whole(model, trained.weights)
        model.eval()
    merge_adapters()
    if settings.distil.steps:
        trained = _followed_by(
            trained,
            distil(
                model,
                examples,
                held_out,
                settings.distil,
                accelerator=accelerator,
                key=f"{key} distil",
                seed=params.seed,
                checkpoint=checkpoint_path(paths, "llm-distil"),
                progress=progress,
            ),
        )
        drop_checkpoint(checkpoint_path(paths, "llm-distil"))
    metrics = evaluate(model, held_out)
    _warn_of_noise(metrics["loss"], image_tokenizer.codes // image_tokenizer.levels, len(pairs))

    def save(folder: Path) -> None:
        model.save(folder)
        draw_samples(model, held_out, image_tokenizer, folder / "samples.png")

    return finish("llm", save, paths, trained, metrics, accelerator)


def draw_samples(model: ImageLanguageModel, examples: Examples, image_tokenizer: ImageTokenizer, path: Path) -> None:
    """Writes a PNG: some images as the tokenizer renders them, and below each two that are drawn under its conditions,
    always by the same numbers."""
    picks = np.unique(np.linspace(0, len(examples) - 1, _SHOWN).astype(np.int64)).tolist()
    if not picks:
        return
    was_training = model.training
    prefixes = [examples.prefix(model, pick) for pick in picks]
    draws = stream(0, "llm.samples").random((_DRAWN, len(picks), model.layout.tokens), dtype=np.float32)
    model.eval()
    rows = [examples.codes_NT[picks], *(model.draw(prefixes, torch.from_numpy(row)) for row in draws)]
    model.train(was_training)
    draw_rows(np.stack([np.concatenate(list(rendered(image_tokenizer, codes))) for codes in rows]), path)


def _followed_by(first: Trained, second: Trained) -> Trained:
    """Returns how a training went that another one followed."""
    later = [{**row, "step": row["step"] + first.steps} for row in second.curve]
    return replace(
        second,
        resumed_from=first.resumed_from + second.resumed_from,
        steps=first.steps + second.steps,
        best_step=first.steps + second.best_step,
        curve=[*first.curve, *later],
    )


def add_adapters(model: ImageLanguageModel, settings: LLMConfig) -> Callable[[], None]:
    """Puts low-rank adapters on the transformer's linear layers, when ``settings.lora.rank`` isn't 0, and returns
    what merges them into the weights again. Embeddings and output head stay trainable: the image tokens are new."""
    if settings.lora.rank == 0:
        return lambda: None
    from peft import LoraConfig, get_peft_model

    lora = settings.lora
    wanted = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
    adapted = get_peft_model(model.lm, wanted)
    for layer in (model.lm.get_input_embeddings(), model.lm.get_output_embeddings()):
        layer.requires_grad_(True)

    def merge() -> None:
        model.lm = adapted.merge_and_unload()

    return merge


def _loss(module: nn.Module, model: ImageLanguageModel, batch: Batch, examples: Examples) -> Losses:
    """Returns the terms of a batch whose samples lose text, keypatches or both, or are turned round, by chance."""
    settings = model.config
    forward, prefixes, reverse = [], [], []
    draws = batch.draws(5 + DRAWS)
    places = []
    for place, (pick, draw) in enumerate(zip(batch.picks.tolist(), draws.tolist(), strict=True)):
        wording = int(draw[4] * 1000)
        if draw[0] < settings.reverse_fraction:
            reverse.append((pick, wording))
            continue
        dropped = draw[1] < settings.condition_dropout
        text, patches = draw[2] >= settings.text_dropout, draw[3] >= settings.keypatch_dropout
        kept = {"text": text and not dropped, "keypatches": patches and not dropped}
        written = draw[4] < settings.written_texts
        forward.append(pick)
        places.append(place)
        prefixes.append(examples.prefix(model, pick, **kept, written=written, wording=wording))
    reverse_prefixes = [
        model.reverse_prefix(examples.codes_NT[i].tolist(), examples.pairs.conditions[i], wording)
        for i, wording in reverse
    ]
    codes_BT = examples.codes(forward, draws[places, 5:], settings.jitter)
    losses: dict[str, torch.Tensor] = module(
        prefixes, codes_BT, reverse_prefixes, [examples.pairs.texts[i] for i, _ in reverse]
    )
    share = len(forward) / len(batch.picks)
    weights = {"image": share, "text": share * settings.text_weight, "report": 1.0 - share}
    total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
    return {"total": total, **losses}


def _load_whole(model: nn.Module, path: Path) -> None:
    """Loads the gathered weights of a sharded training."""
    prefix = "module/llm/"
    with safe_open(path, framework="pt") as stream:
        names = [name for name in stream.keys() if name.startswith(prefix)]  # noqa: SIM118
        model.load_state_dict({name.removeprefix(prefix): stream.get_tensor(name) for name in names})


class _Foreboding:
    """Warns once, early, when the held-out loss is on its way to noise."""

    def __init__(self, steps: int, codes: int, n_pairs: int) -> None:
        self._steps, self._guess, self._n_pairs = steps, math.log(codes), n_pairs
        self._said = False

    def __call__(self, curve: Sequence[Row]) -> None:
        expected = forecast(curve, self._steps)
        if expected is not None and expected > _HARDLY_LEARNT * self._guess and not self._said:
            self._said = True
            log.warning(
                "llm: about %.2f nats an image token are to be expected at step %d, where a blind guess costs %.2f: "
                "its images will be noise. Stop it, and give it more steps, or more pairs than %d",
                expected,
                self._steps,
                self._guess,
                self._n_pairs,
            )


def _warn_of_noise(loss: float, codes: int, n_pairs: int) -> None:
    guess = math.log(codes)
    if loss > _HARDLY_LEARNT * guess:
        log.warning(
            "llm: %.2f nats an image token on held-out pairs, where a blind guess among %d codes costs %.2f: "
            "its images will be noise. It needs more steps, or more pairs than %d; or set models.path",
            loss,
            codes,
            guess,
            n_pairs,
        )


@torch.inference_mode()
def image_loss(
    model: ImageLanguageModel,
    examples: Examples,
    prefix: Callable[[int], Prefix],
    limit: int | None = None,
    batch_size: int = 32,
) -> float:
    """Returns nats an image token over at most ``limit`` pairs, each after the prefix that its index gives."""
    n = min(limit or len(examples), len(examples))
    total = 0.0
    for start in range(0, n, batch_size):
        stop = min(n, start + batch_size)
        loss = model.image_loss([prefix(index) for index in range(start, stop)], examples.codes_NT[start:stop])
        total += float(loss) * (stop - start)
    return total / n


@torch.inference_mode()
def evaluate(model: ImageLanguageModel, examples: Examples) -> dict[str, float]:
    """Returns nats an image token on held-out pairs, with their own conditioning, without any,
    and with that of another study: the gaps say how much text and keypatches tell. With the reverse task, also
    nats a report token."""
    n, conditions = len(examples), examples.pairs.conditions
    metrics = {
        "loss": image_loss(model, examples, lambda index: examples.prefix(model, index)),
        "loss_unconditional": image_loss(model, examples, lambda index: model.empty_prefix(conditions[index])),
        "loss_shuffled": image_loss(model, examples, lambda index: examples.prefix(model, (index + n // 2) % n)),
    }
    if model.config.reverse_fraction > 0:
        metrics["loss_report"] = float(
            np.mean(
                [
                    float(
                        model(
                            [],
                            examples.codes_NT[:0],
                            [model.reverse_prefix(examples.codes_NT[i].tolist(), conditions[i])],
                            [examples.pairs.texts[i]],
                        )["report"]
                    )
                    for i in range(min(n, _JUDGED))
                ]
            )
        )
    return metrics
