"""The training loop that all three models share: schedule, clipping, checkpoints, metrics.

Every step draws its batch and its noise from streams seeded by (seed, step), so a training that was killed
and resumed ends in the same weights as one that wasn't.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medsynth_core.config.tree import OptimiserConfig
from medsynth_core.errors import StateError
from medsynth_core.models.artifact import model_digest, write_card
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.training.checkpoint import load_checkpoint, save_checkpoint

Losses = Mapping[str, Tensor]
StepFunction = Callable[[int], Losses]
"""Runs forward, backward and the optimisers of one step and returns its loss terms (scalars)."""


@dataclass(frozen=True)
class TrainingReport:
    """What a training stage did.

    Attributes:
        model: name of the model.
        digest: of the saved model.
        steps: optimiser steps in all.
        resumed_from: finished steps that a checkpoint supplied.
        best_step: steps behind the weights that were kept; fewer than ``steps`` when later ones only memorised.
        metrics: validation metrics, as on the card.
    """

    model: str
    digest: str
    steps: int
    resumed_from: int
    best_step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """Finished steps that a checkpoint supplied, and those behind the weights that were kept."""

    resumed_from: int
    best_step: int


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Returns the rate of ``step``: linear warm-up, then a cosine down to a tenth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(1.0, share)))


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Returns the samples of ``step``, int64 [batch_size]: whole shuffled epochs laid end to end."""
    first = step * batch_size
    picks = []
    for position in range(first, first + batch_size):
        picks.append((position // n, position % n))
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(n) for epoch in {e for e, _ in picks}}
    return np.array([orders[epoch][index] for epoch, index in picks], dtype=np.int64)


def step_generator(seed: int, step: int) -> np.random.Generator:
    """Returns the random stream of one step."""
    return np.random.default_rng([seed, step, 1])


def optimise(
    loss: Tensor, optimiser: torch.optim.Optimizer, module: nn.Module, config: OptimiserConfig, step: int
) -> None:
    """Takes one clipped step down ``loss``."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(config, step)
    optimiser.step()


def train(
    step_function: StepFunction,
    config: OptimiserConfig,
    *,
    key: str,
    seed: int,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    checkpoint: Path,
    progress: Progress,
    validate: Callable[[], float] | None = None,
) -> Trained:
    """Runs the steps that are left; the modules end in the weights of the best checkpoint.

    Loss terms go, one JSON line every 20 steps, to ``checkpoint`` with the suffix ``.jsonl``.

    Args:
        key: digest of everything that determines the weights; a checkpoint of another key isn't used.
        validate: held-out loss, asked at every checkpoint; the lowest is best. Without it the last one is.

    Raises:
        StateError: a loss isn't finite; the last checkpoint stays.
    """
    done = load_checkpoint(checkpoint, key, modules, optimisers)
    for module in modules.values():
        module.train()
    log = _log_until(metrics_path(checkpoint), done)
    best = best_path(checkpoint)
    best_loss, best_step = _best_until(log)
    for step in range(done, config.steps):
        with torch.random.fork_rng():
            torch.manual_seed(seed * 1_000_003 + step)
            losses = step_function(step)
        if step % 20 == 0 or step == config.steps - 1:
            values = {name: float(value.detach()) for name, value in losses.items()}
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                raise StateError(f"training diverged: {bad[0]} isn't finite at step {step}; lower the learning_rate")
            log.append(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}))
            progress(step, config.steps, ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        last = step + 1 == config.steps
        if last or (step + 1) % config.checkpoint_every == 0:
            if validate is not None:
                held_out = _held_out(validate, modules)
                log.append(json.dumps({"step": step, "held_out": held_out}))
                if held_out < best_loss:
                    best_loss, best_step = held_out, step + 1
                    save_checkpoint(best, key, best_step, modules, {})
            save_checkpoint(checkpoint, key, step + 1, modules, optimisers)
            metrics_path(checkpoint).write_text("\n".join(log) + "\n", "utf-8")
    for module in modules.values():
        module.eval()
    progress(config.steps, config.steps, "")
    if validate is None:
        return Trained(done, config.steps)
    if best_step < config.steps:
        load_checkpoint(best, key, modules, {})
    return Trained(done, best_step)


def finish(
    model: str,
    save: Callable[[Path], None],
    target: Path,
    checkpoint: Path,
    steps: int,
    trained: Trained,
    metrics: Mapping[str, float],
) -> TrainingReport:
    """Writes a trained model with its card and its loss curve to ``target`` and drops the checkpoints."""
    with replace_directory(target) as folder:
        save(folder)
        write_card(folder, metrics)
        (folder / "metrics.jsonl").write_bytes(metrics_path(checkpoint).read_bytes())
        digest = model_digest(folder)
    for path in (checkpoint, metrics_path(checkpoint), best_path(checkpoint)):
        path.unlink(missing_ok=True)
    return TrainingReport(model, digest, steps, trained.resumed_from, trained.best_step, dict(metrics))


def metrics_path(checkpoint: Path) -> Path:
    """Returns where the loss curve of an unfinished training stands."""
    return checkpoint.with_suffix(".jsonl")


def best_path(checkpoint: Path) -> Path:
    """Returns where the best weights of an unfinished training stand."""
    return checkpoint.with_suffix(".best" + checkpoint.suffix)


@torch.inference_mode()
def _held_out(validate: Callable[[], float], modules: Mapping[str, nn.Module]) -> float:
    for module in modules.values():
        module.eval()
    loss = validate()
    for module in modules.values():
        module.train()
    if not math.isfinite(loss):
        raise StateError("training diverged: the held-out loss isn't finite; lower the learning_rate")
    return round(loss, 6)


def _best_until(log: Iterable[str]) -> tuple[float, int]:
    """Returns the lowest held-out loss in a log and the steps behind it; infinity and 0 without one."""
    lines = (json.loads(line) for line in log)
    found = [(line["held_out"], line["step"] + 1) for line in lines if "held_out" in line]
    return min(found, default=(math.inf, 0))


def _log_until(path: Path, done: int) -> list[str]:
    if done == 0 or not path.is_file():
        return []
    return [line for line in path.read_text("utf-8").splitlines() if json.loads(line)["step"] < done]
