"""All that docs/evidence.md claims, from one folder: `make evidence`.

    python -m benchmarks.evidence OUT [--films FILMS] [--elsewhere FILMS]
    python -m benchmarks.evidence OUT --write docs     (only the page, of what OUT/evidence.json has)

FILMS is a folder with a table studies.csv, whose columns image, patient, view and findings are read, and the films in
images/; without it the phantom's part is made alone. Parts run side by side, a core each, and each keeps what it has
done in OUT, so that a run that was stopped goes on:

- *rivals* (benchmarks/rivals.py), on phantoms and on films;
- *films*: a workspace of the films as `medsynth init --corpus` makes it, its release, and what that is worth to a
  trainer (`medsynth utility`);
- *attackers* (benchmarks/attackers.py), on phantoms and on films.

OUT/evidence.json has the figures with the seconds that each part took of the processor, OUT/evidence.md the page, and
OUT/NAME.log what each part said.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.method import _interval
from benchmarks.rivals import COLUMNS, DIFFUSION, MEDSYNTH, NEAREST, REAL, Figures, table
from medsynth_core.cli.corpus import corpus_settings

SEEDS = 3
FILMS_RIVALS = ("models.llm.train.steps=1000", "corpus.test_fraction=0.15", "corpus.judge_fraction=0.15")
"""Short trainings, since there are four a seed; more held-out films than by default, for the figures' sake."""
FILMS_RELEASE = (
    "corpus.test_fraction=0.15",
    "corpus.judge_fraction=0.15",
    "prompts.n=90",
    "models.llm.train.steps=2500",
)
"""Half of the training, so that all of it takes three hours of two cores."""
WORTH = (
    "utility.shares=[0.1]",
    "utility.ratios=[0.25, 0.5, 1, 2]",
    "utility.rare=pneumonia",
    "utility.seeds=5",
)
Evidence = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Commands, one after the other, and where what they measured is then.

    Attributes:
        found: file of JSON under OUT.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    found: str


def main(
    out: Annotated[Path, typer.Argument(help="Folder for all of it; one of an earlier run goes on.")],
    films: Annotated[Path | None, typer.Option(help="Folder with studies.csv and images/.", exists=True)] = None,
    elsewhere: Annotated[Path | None, typer.Option(help="The same of another source.", exists=True)] = None,
    part: Annotated[list[str] | None, typer.Option(help="Only these parts.")] = None,
    write: Annotated[Path | None, typer.Option(help="Also write evidence.md and evidence.json here.")] = None,
) -> None:
    """Makes the evidence and writes the page."""
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "evidence.json"
    evidence: Evidence = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    chosen = [each for each in parts(out.resolve(), films, elsewhere) if not part or each.name in part]
    threads = max(1, (os.cpu_count() or 1) // max(1, min(len(chosen), os.cpu_count() or 1)))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for each, done in zip(chosen, pool.map(lambda each: made(each, out, threads), chosen), strict=True):
            evidence[each.name] = done
            kept.write_text(json.dumps(evidence, indent=1) + "\n", "utf-8")
    (out / "evidence.md").write_text(page(evidence), "utf-8")
    if write is not None:
        for name in ("evidence.md", "evidence.json"):
            shutil.copy(out / name, write / name)
    print(out / "evidence.md")


def parts(out: Path, films: Path | None, elsewhere: Path | None) -> Iterator[Part]:
    """Yields what there is to do; the longest first."""
    python, medsynth = sys.executable, str(Path(sys.executable).with_name("medsynth"))

    def rivals(name: str, *more: str) -> Part:
        command = (python, "-m", "benchmarks.rivals", str(out / name), "--seeds", str(SEEDS), *more)
        return Part(name, (command,), f"{name}/rivals.json")

    def attackers(name: str, *more: str) -> Part:
        return Part(name, ((python, "-m", "benchmarks.attackers", str(out / name), *more),), f"{name}/attackers.json")

    if films is not None:
        settings = [*corpus_settings(str(films)), *FILMS_RIVALS]
        yield rivals("rivals-films", "--preset", "films", *_each("--set", settings))
    yield rivals("rivals-phantoms")
    if films is not None:
        workspace, worth = str(out / "films"), WORTH
        commands = [(medsynth, "init", workspace, "--corpus", str(films), *_each("-s", FILMS_RELEASE))]
        commands.append((medsynth, "run", "--workspace", workspace))
        if elsewhere is not None:
            other = str(out / "elsewhere")
            commands.append((medsynth, "init", other, "--corpus", str(elsewhere)))
            commands += [(medsynth, stage, "--workspace", other) for stage in ("corpus", "vocabulary")]
            worth = (*WORTH, f"utility.external={other}")
        commands.append((medsynth, "utility", "--workspace", workspace, *_each("-s", worth)))
        yield Part("films", tuple(commands), "films/data/utility/utility.json")
        yield attackers("attackers-films", "--films", str(films))
    yield attackers("attackers-phantoms")


def _each(flag: str, settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in (flag, setting)]


def made(part: Part, out: Path, threads: int) -> Evidence:
    """Runs a part's commands and returns what they found, with the seconds of the processor that they took."""
    kept = out / f"{part.name}.json"
    about: Evidence = json.loads(kept.read_text("utf-8")) if kept.exists() else {"seconds": 0.0, "done": 0}
    threads_of = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    for number, command in enumerate(part.commands):
        if number < about["done"]:
            continue
        with (out / f"{part.name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **threads_of})
            _, status, usage = os.wait4(process.pid, 0)
        about["seconds"] += usage.ru_utime + usage.ru_stime
        code = os.waitstatus_to_exitcode(status)
        if code:
            raise SystemExit(f"{part.name}: {' '.join(command)} ended with {code}; {out / part.name}.log says why")
        about["done"] = number + 1
        kept.write_text(json.dumps(about), "utf-8")
    return {"seconds": about["seconds"], "found": json.loads((out / part.found).read_text("utf-8"))}


def page(evidence: Evidence) -> str:
    """Returns the page of what was found; of what wasn't measured it says so."""
    parts = {name: about["found"] for name, about in evidence.items()}
    kinds = ("phantoms", "films")
    attacked = {kind: parts[f"attackers-{kind}"] for kind in kinds if f"attackers-{kind}" in parts}
    minutes = sum(about["seconds"] for about in evidence.values()) / 60
    sections = [
        f"# Evidence\n\n{_verdict(parts.get('films'))}",
        _HOW.format(minutes=minutes),
        *(_rivals(kind, parts[f"rivals-{kind}"]) for kind in kinds if f"rivals-{kind}" in parts),
        *([_worth(parts["films"])] if "films" in parts else []),
        *([_attacked(attacked)] if attacked else []),
        _UNKNOWN,
    ]
    return "\n".join(map(_wrapped, "\n\n".join(sections).splitlines())) + "\n"


def _wrapped(line: str) -> str:
    """Returns a line of prose as lines of 100 characters; a row of a table stays one."""
    if line.startswith(("|", "#")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


_HOW = (
    "Every table is of one command, `make evidence` (`benchmarks/evidence.py`), whose parts below took {minutes:.0f} "
    "minutes of one core in all. Intervals are 95 %, by Student's t over seeds. [Phantoms](explanation/demo.md) are "
    "drawings, of which it is known what they show; *films* are [those public ones](explanation/films.md) that may be "
    "shown, at 64 x 64 pixels."
)

_UNKNOWN = """## What isn't known

- Anything above 64 x 64 pixels: no GPU was at hand for these figures.
- What a radiologist says: the kit for that is the [reader study](how-to/reader-study.md), and
  nobody has read with it yet.
- What CheXGenBench would say: its extractors' weights weren't at hand; `medsynth benchmark`
  [runs it](how-to/chexgenbench.md).
- How a pretrained diffusion model (RoentGen, Sana) would do: both sides here learn from these
  images alone, in the same minutes of one core."""


def _rivals(kind: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """Returns the table of the rivals, what of it is beyond chance, and what the nearest neighbour would have won."""
    rows = {name: [Figures(**each) for each in of_seeds] for name, of_seeds in found.items()}
    lines = [f"## Rivals, on {kind}", "", table(rows), "### Against latent diffusion, same seconds", ""]
    lines += ["| medsynth less diffusion | by seed, paired | |", "|---|---|---|"]
    for name, sign in _CLAIMED.items():
        value = COLUMNS[name]
        pairs = [(value(a), value(b)) for a, b in zip(rows[MEDSYNTH], rows[DIFFUSION], strict=True)]
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        if differences:
            lines.append(f"| {name} | {_signed(*_between(differences))} | {_said(*_between(differences), sign)} |")
    times = [b.sampling / a.sampling for a, b in zip(rows[MEDSYNTH], rows[DIFFUSION], strict=True)]
    mean, half = _between([float(np.log(each)) for each in times])
    lines.append(f"| images a second, ratio | {np.exp(mean):.2f} | {_said(mean, half, 1)} |")
    won = [name for name, sign in _FIDELITY.items() if _best(rows, name, sign) == NEAREST]
    reasons = sorted({each.refused for each in rows[NEAREST]} - {""})
    always = all(each.refused for each in rows[NEAREST])
    lines += [
        "",
        f"**A generator that returns training films** would have won {', '.join(won) or 'no figure'} among the "
        f"generators. `medsynth release` {'refuses it' if always else '**publishes it for some seed**'}"
        f"{', for ' + ', '.join(f'`{reason}`' for reason in reasons) if reasons else ''}.",
    ]
    return "\n".join(lines)


_CLAIMED = {"prompted findings": 1, "FID": -1, "KID x 1000": -1, "recall": 1, "precision": 1}
"""What is compared, and whether more is better."""
_FIDELITY = {"prompted findings": 1, "FID": -1, "KID x 1000": -1, "precision": 1, "recall": 1, "coverage": 1}


def _best(rows: dict[str, list[Figures]], column: str, sign: int) -> str | None:
    """Returns the generator that a figure would have chosen."""
    means = {}
    for name, of_seeds in rows.items():
        values = [value for value in map(COLUMNS[column], of_seeds) if value is not None]
        if values and name != REAL:
            means[name] = sign * float(np.mean(values))
    return max(means, key=lambda name: means[name]) if means else None


def _between(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and the half width of its interval; of one value, that it is infinite."""
    return _interval(values) if len(values) > 1 else (values[0], float("inf"))


def _signed(mean: float, half: float) -> str:
    return f"{mean:+.3f} ± {half:.3f}"


def _said(mean: float, half: float, sign: int) -> str:
    if abs(mean) <= half:
        return "no difference beyond chance"
    return "medsynth ahead" if mean * sign > 0 else "diffusion ahead"


def _verdict(films: dict[str, Any] | None) -> str:
    """Returns the first line: whether synthetic films beat copies and changed copies of the real ones."""
    if films is None:
        return "**What medsynth's images are worth to a trainer of real films wasn't measured here.**"
    lost = []
    for where, rows in (
        ("on 10 % of the real films", _mixed(films, rare=False)),
        ("with a rare finding", _mixed(films, rare=True)),
    ):
        best = max(rows, key=lambda row: row["auroc"])
        if not all(best["gains"][name][1] > 0 for name in _SCEPTIC):
            lost.append(where)
    if not lost:
        return (
            "**On 10 % of the real films, and where a finding is rare, adding medsynth's images beats as many copies "
            "and changed copies of the real ones, beyond chance.**"
        )
    return (
        f"**medsynth's images aren't shown to help a trainer of real films: {' and '.join(lost)}, adding them doesn't "
        f"beat both copies and changed copies of the real ones beyond chance.**"
    )


_SCEPTIC = ("real, duplicated", "real, augmented")
_MIXED = ("real + synthetic", "real + synthetic, augmented")


def _mixed(films: dict[str, Any], rare: bool) -> list[dict[str, Any]]:
    """Returns the rows in which synthetic films are mixed in, of held-out films."""
    rows = films["rows"]
    return [r for r in rows if r["setting"] in _MIXED and r["tested_on"] == "held-out" and bool(r["rare"]) == rare]


def _worth(films: dict[str, Any]) -> str:
    """Returns the tables of what the release of films is worth."""
    lines = ["## What the images are worth to a trainer", ""]
    lines.append(
        f"{films['seeds']} seeds, {films['steps']} steps each. The generator has learnt from all training films; a "
        f"share is what the classifier has of them."
    )
    titles = {
        ("held-out", None): "Held-out films",
        ("external", None): "Films of other hospitals, which neither generator nor classifier has seen",
    }
    groups = sorted({(row["tested_on"], row["rare"]) for row in films["rows"]}, key=lambda each: (each[1] or "", each))
    for where, rare in sorted(groups, key=lambda each: (each[1] is not None, each[0] == "external")):
        title = titles.get((where, rare)) or f"AUROC of {rare}, made rare, {where} films"
        lines += ["", f"### {title}", ""]
        lines += [f"| trained on | of real | ratio | AUROC | ECE | {' | '.join('over ' + n for n in _SCEPTIC)} |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in films["rows"]:
            if (row["tested_on"], row["rare"]) == (where, rare):
                gains = [_gain(row["gains"].get(name)) for name in _SCEPTIC]
                share = "" if row["setting"] == "synthetic" else f"{row['n_real']}"
                ratio = "" if row["ratio"] is None else f"{row['ratio']:g}"
                low, high = row["interval"]
                lines.append(
                    f"| {row['setting']} | {share} | {ratio} | {row['auroc']:.3f} ({low:.3f} to {high:.3f}) | "
                    f"{row['calibration_error'][0]:.3f} | {' | '.join(gains)} |"
                )
    return "\n".join(lines)


def _gain(gain: Sequence[float] | None) -> str:
    return "" if gain is None else f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"


def _attacked(found: dict[str, dict[str, Any]]) -> str:
    """Returns the table of the attackers."""
    lines = ["## Would the attackers catch a generator that knows its films by heart?", ""]
    lines += [f"| AUC | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    names = list(next(iter(found.values()))["asked"])
    for name in names:
        cells = [f"{each['asked'][name]:.3f}" for each in found.values()]
        lines.append(f"| `{name}`, 50 films learnt by heart | {' | '.join(cells)} |")
    for name in names:
        held = [f["exchangeable"][name] for f in found.values()]
        cells = [f"{each['mean']:.3f} ({each['hold']} of {each['draws']} intervals hold 0.5)" for each in held]
        lines.append(f"| `{name}`, films of strangers on both sides | {' | '.join(cells)} |")
    lines += ["", "[Attackers](explanation/attackers.md) has what each attacker does and where it fails."]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
