"""The engine against ``transformers.generate`` and against the machine: ``python -m benchmarks.engine [TABLE ...]``.

Both sides have the same weights, the same prompts and the same number of images, and take turns in one process. The
ceiling is what the machine could do if it never waited: every product at the matrix rate, or at the memory's rate
where that is slower, one after the other as the network has them. Both rates are measured on the spot.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import GPTNeoXConfig, LlamaConfig, LogitsProcessor, LogitsProcessorList
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from medsynth_core.models.artifact import pick_device, pick_dtype
from medsynth_core.models.llm import ImageLanguageModel, Prefix, TokenLayout
from medsynth_core.models.settings import LLMConfig
from medsynth_core.synthesis.engine import Engine
from medsynth_core.synthesis.packed import PackedLinear, can_pack, pack
from medsynth_core.synthesis.settings import SynthesisConfig

VOCABULARY = 50_281 + 1_024
CODES = 1_024
CELLS = 256
HEAD_TOKENS = 32
"""Tokens that all prompts begin with: markers and the instruction, as a pretrained model is given."""
CACHES = ("dynamic", "static")
"""Of ``generate``; on a GPU it compiles with the static one."""
TABLES = ("generate", "alone", "growth", "batches", "guidance", "grouped", "lengths")
OURS = "medsynth"
SETTINGS = SynthesisConfig(top_p=0.92, guidance=1.0)


@dataclass(frozen=True)
class Size:
    """Shape of a language model.

    Attributes:
        groups: key-value heads; None: as many as heads.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    family: str = "llama"
    groups: int | None = None

    def config(self) -> LlamaConfig | GPTNeoXConfig:
        kind = {"llama": LlamaConfig, "neox": GPTNeoXConfig}[self.family]
        return kind(
            **({} if self.groups is None else {"num_key_value_heads": self.groups}),
            vocab_size=VOCABULARY,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )


SIZES = {
    "small": Size(256, 6, 4, 688),
    "large": Size(768, 12, 12, 2048),
    "smollm2": Size(576, 30, 9, 1536, groups=3),
    "dolly-3b": Size(2560, 32, 32, 10240, "neox"),
}


@dataclass(frozen=True)
class Work:
    """What is decoded: ``images`` images, ``samples`` of each prompt, ``prompt`` + ``tokens`` tokens long."""

    images: int = 32
    samples: int = 8
    prompt: int = 96
    tokens: int = CELLS

    @property
    def prompts(self) -> int:
        return -(-self.images // self.samples)


def main() -> None:
    """Prints the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {TABLES}; all where none is named")
    parser.add_argument("--sizes", nargs="+", default=["small", "large"], choices=SIZES)
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bf16"], help="of both sides")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=32, help="of both sides; 0 (alone): as many as memory holds")
    parser.add_argument("--samples", type=int, default=8)
    arguments = parser.parse_args()
    tables = arguments.tables or TABLES
    if unknown := set(tables) - set(TABLES):
        parser.error(f"no table {unknown}; there are {TABLES}")
    work = Work(images=arguments.images, samples=arguments.samples)
    console = Console(width=140)
    machine = measure_machine(arguments.precision)
    console.print(str(machine))
    if "generate" in tables:
        for name in arguments.sizes:
            console.print(against_generate(name, work, machine, arguments.rounds))
    if "alone" in tables:
        for name in arguments.sizes:
            console.print(alone(name, work, machine, arguments.rounds))
    if "growth" in tables:
        console.print(growth_table(machine))
    if "batches" in tables:
        console.print(batch_table(machine))
    if "guidance" in tables:
        for name in arguments.sizes:
            console.print(guidance_table(name, work, machine, arguments.rounds))
    if "grouped" in tables:
        console.print(grouped_table(work, machine, arguments.rounds))
    if "lengths" in tables:
        for name in arguments.sizes:
            console.print(lengths_table(name, work, machine, arguments.rounds))


# --- the machine


@dataclass(frozen=True)
class Machine:
    """What the machine does at its best, in the arithmetic of the models: FLOP/s of products, bytes/s read."""

    device: torch.device
    dtype: torch.dtype
    flops: float
    bytes: float

    def __str__(self) -> str:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return f"{name}, {self.dtype}: {self.flops / 1e9:.0f} GFLOP/s, {self.bytes / 1e9:.1f} GB/s"

    def seconds(self, flops: float, moved: float) -> float:
        """Returns the least time of one kind of product."""
        return max(flops / self.flops, moved / self.bytes)


def measure_machine(precision: str) -> Machine:
    """Returns the best rates seen, of large products and of reading more than any cache holds."""
    device = pick_device("auto")
    cuda, dtype = device.type == "cuda", pick_dtype(precision, device)
    side = 8192 if cuda else 2048
    square = torch.randn(side, side, device=device, dtype=dtype)
    layers: list[nn.Module] = [nn.Linear(side, side, bias=False).to(device, dtype).requires_grad_(False)]
    if not cuda and can_pack(dtype):
        layers.append(PackedLinear(layers[0].weight, None))
    rate = max(2 * side**3 / fastest(lambda each=each: each(square), device) for each in layers)
    large = torch.ones(2**30 if cuda else 2**26, device=device)
    target = torch.empty_like(large)
    moved = max(
        large.nbytes / fastest(large.sum, device), 2 * large.nbytes / fastest(lambda: target.copy_(large), device)
    )
    return Machine(device, dtype, rate, moved)


def fastest(call: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Returns the least seconds of a call."""
    with torch.inference_mode():
        return min(seconds(call, device) for _ in range(repeats))


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Returns the seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ceiling(size: Size, work: Work, machine: Machine) -> tuple[float, float]:
    """Returns the least seconds of (encoding the prompts, decoding all tokens).

    Counts products alone. A prompt is encoded once, what prompts begin with once in all; a decoded token reads every
    weight, each prompt's keys and values once, and those of the tokens before it in each image.
    """
    width = torch.finfo(machine.dtype).bits // 8
    gated = 3 if size.family == "llama" else 2
    weights = size.layers * (4 * size.hidden**2 + gated * size.hidden * size.intermediate)
    head = CODES * size.hidden
    kept = 2 * size.layers * size.hidden
    encoded = HEAD_TOKENS + work.prompts * (work.prompt - HEAD_TOKENS)
    encode = machine.seconds(2 * weights * encoded, width * weights)
    before = work.tokens / 2
    rows = work.images
    step = (
        machine.seconds(2 * weights * rows, width * weights)
        + machine.seconds(2 * head * rows, width * head)
        + machine.seconds(2 * kept * before * rows, width * kept * before * rows)
        + machine.seconds(2 * kept * work.prompt * rows, width * kept * work.prompt * work.prompts)
    )
    return encode, step * (work.tokens - 1)


# --- table 1: generate


class OnlyCodes(LogitsProcessor):
    """Leaves the image codes alone, as the engine's head does."""

    def __init__(self, layout: TokenLayout) -> None:
        self._codes = slice(layout.first_code, layout.first_code + layout.codes)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, self._codes] = scores[:, self._codes]
        return allowed


def language_model(size: Size, machine: Machine, tokens: int = CELLS) -> ImageLanguageModel:
    """Returns random weights behind our token layout."""
    torch.manual_seed(0)
    layout = TokenLayout(VOCABULARY - TokenLayout(0, tokens, CODES).size, tokens, CODES)
    with machine.device:
        lm = AutoModelForCausalLM.from_config(size.config(), dtype=machine.dtype)
    model = ImageLanguageModel(LLMConfig(keypatches=8), layout, None, lm)  # type: ignore[arg-type]
    return model.eval().requires_grad_(False)


def prefixes(work: Work, layout: TokenLayout) -> list[Prefix]:
    """Returns a prefix an image, the same for the samples of a prompt."""
    draw = np.random.default_rng(0)
    head = draw.integers(0, layout.text_tokens, HEAD_TOKENS).tolist()
    rest = [draw.integers(0, layout.text_tokens, work.prompt - HEAD_TOKENS).tolist() for _ in range(work.prompts)]
    each = [Prefix([*head, *own], [*[-1] * (work.prompt - 1), 0], {0: 3}) for own in rest]
    return [each[image // work.samples] for image in range(work.images)]


class Sides:
    """Both sides with the same weights and the same prompts; each is called with the tokens an image."""

    def __init__(self, size: Size, work: Work, machine: Machine) -> None:
        theirs = language_model(size, machine, work.tokens)
        ours = copy.deepcopy(theirs)
        pack(ours)
        engine = Engine(ours, capture=machine.device.type == "cuda")
        asked = prefixes(work, theirs.layout)
        uniforms = torch.rand(work.images, work.tokens)
        self._lm = theirs.lm
        self._ids = torch.tensor([prefix.ids for prefix in asked], device=machine.device)
        tried = {
            cache: [seconds(lambda c=cache: self._generate(17, c), machine.device) for _ in range(3)][-1]
            for cache in CACHES
        }
        cache = min(tried, key=lambda each: tried[each])
        self.generate = f"generate ({cache} cache)"
        self.calls: dict[str, Callable[[int], object]] = {
            self.generate: lambda tokens: self._generate(tokens, cache),
            "the same, codes only": lambda tokens: self._generate(tokens, cache, OnlyCodes(theirs.layout)),
            OURS: lambda tokens: engine.decode(asked, [], uniforms[:, :tokens], SETTINGS),
        }
        # On a GPU a static cache of another length is compiled anew.
        warm_up = (1, work.tokens) if machine.device.type == "cuda" else (4,)
        for call in self.calls.values():
            for tokens in warm_up:
                call(tokens)

    def _generate(self, tokens: int, cache: str, *processors: LogitsProcessor) -> None:
        self._lm.generate(
            self._ids,
            attention_mask=torch.ones_like(self._ids),
            do_sample=True,
            top_p=SETTINGS.top_p,
            top_k=0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            cache_implementation=cache,
            logits_processor=LogitsProcessorList(processors),
        )


def growth_table(machine: Machine) -> Table:
    """Returns table 3: one thing changes at a time."""
    table = Table(title="How both grow: ms a token of the whole batch, prompts apart")
    for column in ("", "generate", "medsynth", "ratio", "of ceiling", "images/s"):
        table.add_column(column, justify="left" if not column else "right")
    base = Work(tokens=64)
    rows = [(f"small, {n} images, 64 tokens", "small", replace(base, images=n)) for n in (8, 32, 128)]
    rows += [(f"small, 32 images, {n} tokens", "small", replace(base, tokens=n)) for n in (256, 576)]
    rows += [("large, 32 images, 64 tokens", "large", base)]
    for label, name, work in rows:
        sides = Sides(SIZES[name], work, machine)
        spent = {}
        for side in (sides.generate, OURS):
            call = sides.calls[side]
            first = seconds(lambda call=call: call(1), machine.device)
            spent[side] = seconds(lambda call=call, n=work.tokens: call(n), machine.device), first
        steps = [1e3 * (total - first) / (work.tokens - 1) for total, first in spent.values()]
        total = spent[OURS][0]
        table.add_row(
            label,
            f"{steps[0]:.1f}",
            f"{steps[1]:.1f}",
            f"{steps[0] / steps[1]:.1f}",
            f"{sum(ceiling(SIZES[name], work, machine)) / total:.0%}",
            f"{work.images / total:.1f}",
        )
    return table


def batch_table(machine: Machine) -> Table:
    """Returns table 4: how far an image depends on the images beside it."""
    work = Work(images=32)
    model = language_model(SIZES["small"], machine)
    for weights in model.lm.get_output_embeddings().parameters():
        weights.mul_(50.0)  # as decided as a trained model: about 1 nat a token
    pack(model)
    engine = Engine(model)
    asked, uniforms = prefixes(work, model.layout), torch.rand(work.images, work.tokens)
    together = engine.decode(asked, [], uniforms, SETTINGS)
    states = engine.states(asked, together)
    table = Table(title=f"{work.images} images in other batches than of {work.images}")
    for column in ("images a batch", "same images", "same tokens", "largest deviation of a state"):
        table.add_column(column, justify="right")
    for size in (1, 2, 4, 8, 16):
        parts = [slice(start, start + size) for start in range(0, work.images, size)]
        codes = torch.cat([engine.decode(asked[part], [], uniforms[part], SETTINGS) for part in parts])
        moved = torch.cat([engine.states(asked[part], together[part]) for part in parts])
        same = codes == together
        deviation = float((moved - states).abs().max() / states.abs().max())
        table.add_row(str(size), f"{same.all(1).float().mean():.0%}", f"{same.float().mean():.2%}", f"{deviation:.1e}")
    return table


def guidance_table(name: str, work: Work, machine: Machine, rounds: int) -> Table:
    """Returns table 5: what guidance costs, which a model that was aligned with its conditions does without."""
    sides = {
        f"guidance {guidance:g}": (SIZES[name], SETTINGS.model_copy(update={"guidance": guidance}), work)
        for guidance in (3.0, 1.0)
    }
    return _in_turns(f"{name}, with guidance and without", sides, machine, rounds)


def grouped_table(work: Work, machine: Machine, rounds: int) -> Table:
    """Returns table 6: heads that share keys and values, beside as many with keys and values of their own."""
    grouped = SIZES["smollm2"]
    sides = {
        f"{grouped.heads} heads over {groups}": (replace(grouped, groups=groups), SETTINGS, work) for groups in (9, 3)
    }
    return _in_turns("SmolLM2's shape", sides, machine, rounds)


def lengths_table(name: str, work: Work, machine: Machine, rounds: int) -> Table:
    """Returns table 7: what larger images cost; in cells of 16 x 16 pixels one of 256 has 256 tokens, one of 512 has
    1,024."""
    sides = {
        f"{tokens:,} tokens": (SIZES[name], SETTINGS, replace(work, tokens=tokens)) for tokens in (CELLS, 4 * CELLS)
    }
    return _in_turns(f"{name}, larger images", sides, machine, rounds)


def _in_turns(title: str, sides: dict[str, tuple[Size, SynthesisConfig, Work]], machine: Machine, rounds: int) -> Table:
    """Returns how quick the engine is with one shape, setting and work and another, the first being what others are
    held against."""
    calls, spent, memory = {}, {side: list[float]() for side in sides}, dict.fromkeys(sides, 0.0)
    for side, (size, settings, work) in sides.items():
        model = language_model(size, machine, work.tokens)
        pack(model)
        engine = Engine(model, capture=machine.device.type == "cuda")
        asked, uniforms = prefixes(work, model.layout), torch.rand(work.images, work.tokens)
        bare = [Prefix([*range(6)], [*[-1] * 5, 0])] * work.images  # markers alone
        calls[side] = partial(engine.decode, asked, bare, uniforms, settings)
        calls[side]()
    for _ in range(rounds):
        for side, call in calls.items():
            with peak_memory(machine.device) as peak:
                spent[side].append(seconds(call, machine.device))
            memory[side] = max(memory[side], peak())
    base = next(iter(sides))
    table = Table(title=f"{title}: {sides[base][2]}, {rounds} rounds in turn")
    for column in ("", "images/s", "times as quick", "peak, MiB"):
        table.add_column(column, justify="left" if not column else "right")
    for side, times in spent.items():
        ratio = statistics.median(other / mine for other, mine in zip(spent[base], times, strict=True))
        rate = sides[side][2].images / statistics.median(times)
        table.add_row(side, f"{rate:.2f}", f"{ratio:.2f}", f"{memory[side]:.0f}")
    return table


def against_generate(name: str, work: Work, machine: Machine, rounds: int) -> Table:
    """Returns table 1 of one size."""
    size = SIZES[name]
    sides = Sides(size, work, machine).calls
    first: dict[str, list[float]] = {side: [] for side in sides}
    whole: dict[str, list[float]] = {side: [] for side in sides}
    memory: dict[str, float] = dict.fromkeys(sides, 0.0)
    for _ in range(rounds):
        for side, call in sides.items():
            first[side].append(seconds(lambda call=call: call(1), machine.device))
            with peak_memory(machine.device) as peak:
                whole[side].append(seconds(lambda call=call: call(work.tokens), machine.device))
            memory[side] = max(memory[side], peak())
    encode, decode = ceiling(size, work, machine)
    table = Table(title=f"{name}: {size}, {work}, {rounds} rounds")
    for column in (
        "",
        "images/s",
        "tokens/s",
        "ms/token",
        "prompts, s",
        "ratio",
        "ratio, prompts",
        "of ceiling",
        "peak, MiB",
    ):
        table.add_column(column, justify="left" if not column else "right")
    for side in sides:
        once, total = statistics.median(first[side]), statistics.median(whole[side])
        ratio, of_prompts = (
            statistics.median(other / mine for other, mine in zip(times[side], times[OURS], strict=True))
            for times in (whole, first)
        )
        step = (total - once) / (work.tokens - 1)
        table.add_row(
            side,
            f"{work.images / total:.2f}",
            f"{work.images * work.tokens / total:.0f}",
            f"{1e3 * step:.1f}",
            f"{once:.2f}",
            f"{ratio:.1f}",
            f"{of_prompts:.1f}",
            f"{(encode + decode) / total:.0%}",
            f"{memory[side]:.0f}",
        )
    table.add_row(
        "ceiling",
        f"{work.images / (encode + decode):.2f}",
        f"{work.images * work.tokens / (encode + decode):.0f}",
        f"{1e3 * decode / (work.tokens - 1):.1f}",
        f"{encode:.2f}",
    )
    return table


def alone(name: str, work: Work, machine: Machine, rounds: int) -> Table:
    """Returns what the engine does by itself, with as many images as memory holds where ``work`` says none."""
    size = SIZES[name]
    model = language_model(size, machine, work.tokens)
    pack(model)
    engine = Engine(model, capture=machine.device.type == "cuda")
    work = replace(work, images=work.images or engine.images_that_fit(work.prompt, SETTINGS))
    asked, uniforms = prefixes(work, model.layout), torch.rand(work.images, work.tokens)

    def call(tokens: int) -> None:
        engine.decode(asked, [], uniforms[:, :tokens], SETTINGS)

    first = seconds(lambda: call(2), machine.device)
    with peak_memory(machine.device) as peak:
        once = statistics.median(seconds(lambda: call(1), machine.device) for _ in range(rounds))
        total = statistics.median(seconds(lambda: call(work.tokens), machine.device) for _ in range(rounds))
    encode, decode = ceiling(size, work, machine)
    table = Table(title=f"{name} alone: {work}, {rounds} rounds; two tokens took {first:.1f} s at first")
    for column in ("images/s", "tokens/s", "ms/token", "prompts, s", "of ceiling", "peak, MiB"):
        table.add_column(column, justify="right")
    table.add_row(
        f"{work.images / total:.2f}",
        f"{work.images * work.tokens / total:.0f}",
        f"{1e3 * (total - once) / (work.tokens - 1):.1f}",
        f"{once:.2f}",
        f"{(encode + decode) / total:.0%}",
        f"{peak():.0f}",
    )
    return table


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yields a call that returns the MiB taken beyond those at the start."""
    gc.collect()
    mib = 2**20
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: (torch.cuda.max_memory_allocated() - before) / mib
        return
    process, stop = psutil.Process(), threading.Event()
    start = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.02):
            most = max(most, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: (most - start) / mib
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
