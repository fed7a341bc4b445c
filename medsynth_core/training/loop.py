"""The training loop that all models share, on accelerate: schedule, accumulation, clipping, checkpoints, curve.

A step's samples and its noise are drawn by (seed, step) and by a sample's place in the batch, never by a process'
rank, so that a training that was killed and resumed ends in the same weights as one that wasn't, and several
processes share the very batches that one would see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from torch import Tensor, nn

from medsynth_core.errors import ConfigError, StateError
from medsynth_core.models.artifact import pick_device, pick_dtype
from medsynth_core.models.settings import OptimiserConfig
from medsynth_core.progress import Progress
from medsynth_core.random import seed_of, stream
from medsynth_core.training.checkpoint import Progressed, load_checkpoint, save_checkpoint
from medsynth_core.training.curve import Row, best_of, curve_path, stale_checkpoints, write_curve
from medsynth_core.training.settings import TrainingParams

Losses = Mapping[str, Tensor]
"""Loss terms by name, scalars; ``total`` is what the optimiser goes down."""
_LOG_EVERY = 20


@dataclass(frozen=True)
class Batch:
    """What one forward pass of one process sees of a step.

    Attributes:
        step: number of the step.
        seed: of the training.
        picks: int64 [n], samples.
        places: int64 [n], their places in the step's batch.
    """

    step: int
    seed: int
    picks: np.ndarray
    places: np.ndarray

    def draws(self, width: int) -> np.ndarray:
        """Returns the uniform draws of each sample, float64 [n, width] in [0, 1)."""
        rows = [stream(self.seed, "training.sample", self.step, place).random(width) for place in self.places.tolist()]
        return np.stack(rows)


@dataclass(frozen=True)
class Objective:
    """One network and the loss that it goes down.

    Attributes:
        loss: called with the network as accelerate wraps it (its ``forward`` is what may be called) and a batch.
        start: the first step in which it takes part.
        betas: of AdamW.
    """

    name: str
    module: nn.Module
    loss: Callable[[nn.Module, Batch], Losses]
    start: int = 0
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes:
        resumed_from: finished steps that a checkpoint supplied.
        steps: finished steps in all; fewer than configured when it stopped early.
        best_step: steps behind the weights that were kept.
        curve: the loss curve.
        weights: the file that holds the weights that were kept, gathered whole; gone when the stage is done.
    """

    resumed_from: int
    steps: int
    best_step: int
    curve: list[dict[str, float]] = field(repr=False)
    weights: Path


def make_accelerator(params: TrainingParams) -> Accelerator:
    """Returns the accelerator for ``device`` and ``models.precision``, of which ``auto`` is bf16 on a CPU too where it
    multiplies bf16 itself: trainings take about half the time. Under ``accelerate launch``, this process' part.

    Raises:
        InputError: cuda is asked for and there is none.
        ConfigError: the tracker isn't installed.
    """
    device = pick_device(params.device)
    quick = params.precision == "auto" and device.type == "cpu" and _multiplies_bf16()
    wanted = "bf16" if quick or pick_dtype(params.precision, device) == torch.bfloat16 else "no"
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != wanted and not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=wanted,
        log_with=params.tracker,
        project_config=ProjectConfiguration(logging_dir="."),  # set anew when a training begins
    )
    if params.tracker and not accelerator.log_with:
        raise ConfigError(
            f"models.tracker={params.tracker}: its package isn't installed; install it beside medsynth "
            f"(pip install {params.tracker}), or set models.tracker to null"
        )
    return accelerator


def _multiplies_bf16() -> bool:
    can: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older ones lack it
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def best_path(checkpoint: Path) -> Path:
    """Returns where the best weights of an unfinished training stand."""
    return checkpoint.with_suffix(".best" + checkpoint.suffix)


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Returns the rate of ``step``: linear warm-up, then a cosine down to a tenth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(1.0, share)))


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Returns the samples of ``step``, int64 [batch_size]: whole shuffled epochs laid end to end."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: stream(seed, "training.epoch", epoch).permutation(n) for epoch in np.unique(positions // n).tolist()
    }
    return np.array([orders[at // n][at % n] for at in positions.tolist()], dtype=np.int64)


def micro_batches(n: int, config: OptimiserConfig, seed: int, step: int, rank: int, processes: int) -> list[Batch]:
    """Returns the forward passes of one process in ``step``; together the processes' are the step's batch.

    Raises:
        ConfigError: the batch can't be dealt out evenly.
    """
    each = config.batch_size // processes
    size = min(config.micro_batch or each, each)
    if each * processes != config.batch_size or each % size:
        raise ConfigError(
            f"batch_size {config.batch_size} can't be dealt out to {processes} processes in forward passes of {size}: "
            f"set batch_size to a multiple of processes x micro_batch"
        )
    picks = batch_indices(n, config.batch_size, seed, step)
    own = np.arange(rank * each, (rank + 1) * each)
    return [Batch(step, seed, picks[places], places) for places in own.reshape(-1, size)]


def train(
    objectives: Sequence[Objective],
    n: int,
    config: OptimiserConfig,
    *,
    accelerator: Accelerator,
    key: str,
    seed: int,
    checkpoint: Path,
    progress: Progress,
    validate: Callable[[], float] | None = None,
    validate_from: int = 0,
    before_step: Callable[[int], None] | None = None,
    at_checkpoint: Callable[[Sequence[Row]], None] | None = None,
) -> Trained:
    """Runs the steps that are left; the modules end in the weights of the best checkpoint, in evaluation mode.

    Args:
        n: how many samples there are.
        key: identifies data and settings; a checkpoint of another key isn't resumed.
        validate: returns the held-out loss, the lower the better; the last weights are kept without it.
        validate_from: checkpoints before this step aren't judged.
        before_step: called with each step's number before it.
        at_checkpoint: called by the main process with the curve so far, after each checkpoint.

    Raises:
        ConfigError: the batch can't be dealt out evenly to the processes.
        StateError: a loss isn't finite, or the checkpoint is damaged.
    """
    if accelerator.log_with:
        accelerator.project_configuration.logging_dir = str(checkpoint.parents[1] / "tracking")
        accelerator.init_trackers(checkpoint.stem)
    modules = {objective.name: objective.module.train() for objective in objectives}
    wrapped = {name: accelerator.prepare(module) for name, module in modules.items()}
    optimisers = {
        objective.name: torch.optim.AdamW(
            [parameter for parameter in wrapped[objective.name].parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=objective.betas,
            weight_decay=config.weight_decay,
        )
        for objective in objectives
    }
    best = best_path(checkpoint)
    reached = load_checkpoint(checkpoint, key, wrapped, optimisers)
    resumed_from, curve = reached.step, reached.curve
    main = accelerator.is_main_process
    step = resumed_from
    while step < config.steps and not (config.patience and stale_checkpoints(curve) >= config.patience):
        if before_step is not None:
            before_step(step)
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(seed, "training.step", step))
            batches = micro_batches(n, config, seed, step, accelerator.process_index, accelerator.num_processes)
            losses: dict[str, float | Tensor] = {}
            for objective in objectives:
                if step >= objective.start:
                    module, optimiser = wrapped[objective.name], optimisers[objective.name]
                    losses |= _descend(accelerator, objective, module, optimiser, batches, config)
        step += 1
        if (step - 1) % _LOG_EVERY == 0 or step == config.steps:
            row = {name: float(value) for name, value in losses.items()}
            bad = [name for name, value in row.items() if not math.isfinite(value)]
            if bad:
                raise StateError(
                    f"training diverged: {bad[0]} isn't finite at step {step - 1}; lower the learning_rate"
                )
            rate = learning_rate(config, step - 1)
            curve.append({"step": step - 1, "rate": rate, **{name: round(value, 6) for name, value in row.items()}})
            accelerator.log(curve[-1], step - 1)
            progress(step, config.steps, ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
        if step == config.steps or step % config.checkpoint_every == 0:
            if validate is not None and step > validate_from:
                held_out = _held_out(validate, modules, accelerator)
                if held_out < best_of(curve)[0]:
                    save_checkpoint(best, key, Progressed(step, []), wrapped, {}, writes=main)
                curve.append({"step": step - 1, "held_out": held_out})
                accelerator.log(curve[-1], step - 1)
            save_checkpoint(checkpoint, key, Progressed(step, curve), wrapped, optimisers, writes=main)
            if main:
                write_curve(curve_path(checkpoint), curve)
                if at_checkpoint is not None:
                    at_checkpoint(curve)
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []
    accelerator.wait_for_everyone()
    for name, module in wrapped.items():
        accelerator.unwrap_model(module, keep_fp32_wrapper=False)
        modules[name].eval()
    best_step = best_of(curve)[1] or step
    kept = best if best_step < step else checkpoint
    if best_step < step:
        load_checkpoint(best, key, wrapped, {})
    progress(step, step, "")
    return Trained(resumed_from, step, best_step, curve, kept)


def _descend(
    accelerator: Accelerator,
    objective: Objective,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[Batch],
    config: OptimiserConfig,
) -> dict[str, Tensor]:
    """Takes one clipped step down an objective and returns its terms, averaged over the forward passes."""
    optimiser.zero_grad(set_to_none=True)
    terms: dict[str, list[Tensor]] = {}
    for batch in batches:
        with accelerator.autocast():
            losses = objective.loss(module, batch)
        if batch is batches[-1]:
            accelerator.backward(losses["total"] / len(batches))
        else:
            with accelerator.no_sync(module):
                accelerator.backward(losses["total"] / len(batches))
        for name, value in losses.items():
            if name != "total":
                terms.setdefault(name, []).append(value.detach())
    accelerator.clip_grad_norm_(module.parameters(), config.max_grad_norm)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(config, batches[0].step)
    optimiser.step()
    return {name: torch.stack(values).mean() for name, values in terms.items()}


@torch.no_grad()
def _held_out(validate: Callable[[], float], modules: Mapping[str, nn.Module], accelerator: Accelerator) -> float:
    for module in modules.values():
        module.eval()
    loss = torch.tensor(validate(), dtype=torch.float64, device=accelerator.device)
    for module in modules.values():
        module.train()
    mean = float(accelerator.reduce(loss, reduction="mean"))
    if not math.isfinite(mean):
        raise StateError("training diverged: the held-out loss isn't finite; lower the learning_rate")
    return round(mean, 6)
