"""How well and how fast reports are mined: ``python -m benchmarks.vocabulary COMMAND OPENI``.

OPENI is the folder of ``indiana_reports.csv``, whose columns MeSH and Problems were assigned by people. ``accuracy``
holds mining against them, ``negation`` against the sets in tests/data, ``peers`` both and written texts, beside ConText
and NegEx with the same terms and sections, ``speed`` against medspaCy's ConText, in turns on one core, and ``memory``
runs the vocabulary stage on 1, 10 and 100 times the corpus. These peers need an older numpy than medsynth: make them an
environment of their own (``pip install medspacy negspacy "spacy<3.8" "numpy<2"``) and name its interpreter with
``--spacy``.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import typer
import yaml
from rich.console import Console
from rich.table import Table

from medsynth_core.cores import processes_for
from medsynth_core.corpus.normalised import STUDIES_SCHEMA
from medsynth_core.corpus.sections import parse_sections
from medsynth_core.progress import silent
from medsynth_core.vocabulary import stage as vocabulary_stage
from medsynth_core.vocabulary.mining import Mention, mine_report
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.stages import perform, workspace_paths

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()
NEGATION = [Path(__file__).parents[1] / "tests" / "data" / name for name in ("negation.csv", "negation-held-back.csv")]
LABELS: dict[str, tuple[str, ...]] = {
    "Opacity": ("opacity",),
    "Cardiomegaly": ("cardiomegaly",),
    "Calcinosis": ("calcification", "aortic calcification"),
    "Pulmonary Atelectasis": ("atelectasis",),
    "Calcified Granuloma": ("calcified granuloma",),
    "Cicatrix": ("scar",),
    "Markings": ("increased interstitial markings", "bronchovascular crowding"),
    "Pleural Effusion": ("pleural effusion",),
    "Atherosclerosis": ("atherosclerosis",),
    "Scoliosis": ("scoliosis",),
    "Density": ("density",),
    "Airspace Disease": ("airspace disease",),
    "Granulomatous Disease": ("granulomatous disease",),
    "Nodule": ("lung nodule",),
    "Fractures, Bone": ("fracture",),
    "Costophrenic Angle": ("costophrenic angle blunting",),
    "Osteophyte": ("osteophyte",),
    "Pulmonary Congestion": ("pulmonary congestion",),
    "Infiltrate": ("infiltrate",),
    "Emphysema|Pulmonary Emphysema": ("emphysema",),
    "Spondylosis": ("spondylosis",),
    "Granuloma": ("granuloma",),
    "Pulmonary Disease, Chronic Obstructive": ("COPD",),
    "Hernia, Hiatal": ("hiatal hernia",),
    "Arthritis": ("arthritis",),
    "Pulmonary Edema": ("pulmonary edema",),
    "Pneumonia": ("pneumonia",),
    "Consolidation": ("consolidation",),
    "Pneumothorax": ("pneumothorax",),
    "Lung/hypoinflation": ("low lung volumes",),
    "Lung/hyperdistention": ("hyperinflation",),
    "Aorta/tortuous|Aorta, Thoracic/tortuous": ("tortuous aorta",),
    "Spine/degenerative|Thoracic Vertebrae/degenerative|Lumbar Vertebrae/degenerative": ("degenerative change",),
}
"""What people assigned (any of several, between bars) -> terms that mean it. With a slash it is the beginning of an
entry of MeSH, else it is one of Problems."""
Found = tuple[str, bool, bool]
"""A finding that is mentioned: its name, whether it is denied, whether it is hedged."""
ENGINES = {"context": "medspaCy's ConText", "negex": "negspaCy's NegEx"}
_TEN = 10
_ROUNDS = 5
_CHUNK = 400


@dataclass
class Score:
    """Agreement on one label, by reports."""

    hits: int = 0
    false: int = 0
    missed: int = 0
    instead: Counter[str] = field(default_factory=Counter)

    @property
    def row(self) -> tuple[str, ...]:
        """Counts, precision, recall and F1."""
        precision = self.hits / max(1, self.hits + self.false)
        recall = self.hits / max(1, self.hits + self.missed)
        counts = (str(n) for n in (self.hits, self.false, self.missed))
        return (*counts, f"{precision:.2f}", f"{recall:.2f}", f"{self.f1:.3f}")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(1, 2 * self.hits + self.false + self.missed)


@app.command()
def accuracy(openi: Path) -> None:
    """Precision, recall and F1 of each label, and micro-averaged over the ten commonest findings."""
    rows = read_reports(openi)
    reports = (mine_report(f"{row['findings']}\n{row['impression']}") for row in rows)
    mentions = [[mention for mention in of if mention.kind == "pathology"] for of in reports]
    every = commonest(rows)
    table = Table("label", "hits", "false", "missed", "precision", "recall", "F1")
    said = [found_in(of) for of in mentions]
    scores = {name: score(name, rows, said) for name in LABELS}
    for name in [*every, *(name for name in LABELS if "/" in name)]:
        table.add_row(name.partition("|")[0], *scores[name].row)
    console.print(table)
    console.print("Reports in disagreement: of missed ones, what was mined; [of false ones, what was assigned].")
    for name in every:
        others = ", ".join(f"{other} {n}" for other, n in scores[name].instead.most_common(6))
        console.print(f"  {name}: {others}", markup=False)
    ten = every[:_TEN]
    console.print(f"{len(rows)} reports; the ten commonest: {', '.join(ten)}")
    console.print(f"micro-F1 of the ten: {micro(scores, ten):.3f}; of all: {micro(scores, list(LABELS)):.3f}")
    strangers = [found_in(of) for of in known_elsewhere(mentions)]
    without = {name: score(name, rows, strangers) for name in ten}
    console.print(
        f"without wordings that only the report itself has: {micro(without, ten):.4f} against {micro(scores, ten):.4f}"
    )
    hedged = {name: score(name, rows, said, hedged=True) for name in ten}
    console.print(f"with what is hedged (people often assign it): {micro(hedged, ten):.3f}")


@app.command()
def negation() -> None:
    """Present, uncertain or absent: agreement with the written sets."""
    table = Table("set", "rows", "status", "negated or not")
    for path in NEGATION:
        rows = read_sentences(path)
        found = [found_in(mine_report(row["sentence"])) for row in rows]
        table.add_row(path.name, str(len(rows)), *(f"{share:.3f}" for share in agreement(rows, found)))
    console.print(table)


@app.command()
def peers(
    openi: Path,
    spacy: Annotated[str, typer.Option(help="Interpreter that has medspacy and negspacy.")],
    texts: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON lines with text and truth: a list of finding and status, several of either by | and /."
        ),
    ] = None,
) -> None:
    """Statuses right in written sentences and texts, and micro-F1 on Open-i, of medsynth, ConText and NegEx.

    The peers are given the ontology's wordings and the sections that medsynth reads; what remains is how a sentence is
    found and what it says. NegEx doesn't know *uncertain*.
    """
    rows = read_reports(openi)
    ten = commonest(rows)[:_TEN]
    table = Table("", "medsynth", *ENGINES.values())
    readers = [lambda asked: [found_in(mine_report(text)) for text in asked]]
    readers += [SpacyWorker(spacy, engine).found for engine in ENGINES]
    for path in NEGATION:
        sentences = read_sentences(path)
        found = [read([row["sentence"] for row in sentences]) for read in readers]
        table.add_row(f"{path.stem}: statuses right", *(f"{agreement(sentences, each)[0]:.3f}" for each in found))
    for path in texts or ():
        cases = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        asked = ["\n".join(parse_sections(case["text"])) for case in cases]
        shares = [statuses_right(cases, read(asked)) for read in readers]
        table.add_row(f"{path.stem}: statuses right", *(f"{share:.3f}" for share in shares))
    reports = [f"{row['findings']}\n{row['impression']}" for row in rows]
    scores = [{name: score(name, rows, said) for name in LABELS} for said in (read(reports) for read in readers)]
    table.add_row("Open-i: micro-F1 of the ten commonest", *(f"{micro(each, ten):.3f}" for each in scores))
    table.add_row("Open-i: micro-F1 of all", *(f"{micro(each, list(LABELS)):.3f}" for each in scores))
    console.print(table)


@app.command()
def speed(openi: Path, spacy: Annotated[str, typer.Option(help="Interpreter that has medspacy.")]) -> None:
    """Reports a second of both, in turns; each chunk finds our cache of sentences empty."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core; the worker inherits it
    from medsynth_core.vocabulary import mining

    rows = read_reports(openi)
    texts = [f"{row['findings']}\n{row['impression']}" for row in rows]
    worker = SpacyWorker(spacy, "context")
    worker.ask(texts[-50:])
    mine_report(texts[-1])
    ratios = []
    table = Table("reports", "medsynth /s", "medspaCy /s", "ratio")
    for number in range(_ROUNDS):
        chunk = texts[number * _CHUNK : (number + 1) * _CHUNK]
        mining._mine_sentence.cache_clear()
        start = time.perf_counter()
        for text in chunk:
            mine_report(text)
        ours = len(chunk) / (time.perf_counter() - start)
        theirs = len(chunk) / worker.ask(chunk)["seconds"]
        ratios.append(ours / theirs)
        table.add_row(str(len(chunk)), f"{ours:.0f}", f"{theirs:.0f}", f"{ratios[-1]:.1f}")
    console.print(table)
    console.print(f"median ratio: {sorted(ratios)[len(ratios) // 2]:.1f}")


@app.command()
def memory(openi: Path) -> None:
    """Most memory of the vocabulary stage, workers included, on 1, 10 and 100 times the corpus, on one core and on all.

    Every copy of a report has numbers of its own, so that no cache of sentences makes the copies cheap.
    """
    base = Path(tempfile.mkdtemp())
    table = Table("reports", "processes", "peak MiB", "ratio", "seconds", "reports /s")
    every = os.sched_getaffinity(0)
    first: dict[int, float] = {}
    for times in (1, 10, 100):
        root = base / f"times-{times}"
        n = write_corpus(openi, root, times)
        for cores in ({min(every)}, every):
            processes = min(len(cores), processes_for(n, vocabulary_stage.STUDIES_A_PROCESS))
            if processes < len(cores):
                continue  # a small corpus is mined by fewer
            start = time.perf_counter()
            peak = peak_of_stage(root, cores)
            seconds = time.perf_counter() - start
            ratio = peak / first.setdefault(processes, peak)
            table.add_row(str(n), str(processes), f"{peak:.0f}", f"{ratio:.3f}", f"{seconds:.1f}", f"{n / seconds:.0f}")
        shutil.rmtree(root)
    console.print(table)


class SpacyWorker:
    """A process with a spaCy pipeline of the ontology's wordings, plurals added; ``engine`` is one of ``ENGINES``."""

    def __init__(self, interpreter: str, engine: str) -> None:
        script = Path(__file__).with_name("spacy_pipeline.py")
        self._process = subprocess.Popen(
            [interpreter, str(script), engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ask(spacy_rules())

    def found(self, texts: list[str]) -> list[list[Found]]:
        """Returns what is found in each text."""
        return [[(name, absent, hedged) for name, absent, hedged in said] for said in self.ask(texts)["found"]]

    def ask(self, value: Any) -> Any:
        """Returns the worker's answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the spaCy worker ended; run benchmarks/spacy_pipeline.py by hand to see why")
        return json.loads(line)


def spacy_rules() -> list[tuple[str, str]]:
    """Returns (name, wording) of the ontology's terms."""
    text = resources.files("medsynth_core.vocabulary").joinpath("ontology.yaml").read_text("utf-8")
    rules = []
    for kind in ("pathology", "anatomy", "device"):
        for name, entry in yaml.safe_load(text)[kind].items():
            for wording in (name, *entry["synonyms"]):
                rules += [(name, wording)] if wording.endswith("s") else [(name, wording), (name, f"{wording}s")]
    return rules


def read_reports(openi: Path) -> list[dict[str, str]]:
    """Returns the reports that have a text."""
    with (openi / "indiana_reports.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if (row["findings"] + row["impression"]).strip()]


def commonest(rows: list[dict[str, str]]) -> list[str]:
    """Returns the labels of Problems, the one of most reports first."""
    every = [name for name in LABELS if "/" not in name]
    return sorted(every, key=lambda name: -sum(is_assigned(row, name) for row in rows))


def is_assigned(row: dict[str, str], label: str) -> bool:
    """Returns whether people assigned a label to a report."""
    names = label.split("|")
    if "/" in label:
        return any(entry.strip().startswith(tuple(names)) for entry in row["MeSH"].split(";"))
    return not {entry.strip() for entry in row["Problems"].split(";")}.isdisjoint(names)


def found_in(mentions: list[Mention]) -> list[Found]:
    """Returns what is mentioned, whatever its kind."""
    return [(m.term, m.negated, m.uncertain) for m in mentions]


def score(label: str, rows: list[dict[str, str]], findings: list[list[Found]], hedged: bool = False) -> Score:
    """Returns the agreement on a label; ``hedged`` counts uncertain mentions as positive."""
    found = Score()
    for row, said in zip(rows, findings, strict=True):
        positive = {name for name, absent, uncertain in said if not absent and (hedged or not uncertain)}
        assigned, mined = is_assigned(row, label), bool(positive & set(LABELS[label]))
        found.hits += assigned and mined
        found.false += mined and not assigned
        found.missed += assigned and not mined
        if mined and not assigned:
            found.instead.update(f"[{name}]" for name in row["Problems"].split(";"))
        elif assigned and not mined:
            found.instead.update(positive)
    return found


def known_elsewhere(mentions: list[list[Mention]]) -> list[list[Mention]]:
    """Returns the mentions whose wording another report has too: the ontology may owe the others to these reports."""
    reports: dict[tuple[str, str], set[int]] = defaultdict(set)
    for number, said in enumerate(mentions):
        for mention in said:
            reports[mention.term, mention.wording].add(number)
    return [[m for m in said if len(reports[m.term, m.wording]) > 1] for said in mentions]


def micro(scores: dict[str, Score], names: list[str]) -> float:
    """Returns the F1 of all decisions on the given labels together."""
    total = Score(*(sum(getattr(scores[n], what) for n in names) for what in ("hits", "false", "missed")))
    return total.f1


def read_sentences(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a written set: sentence, finding, status."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def agreement(rows: list[dict[str, str]], found: list[list[Found]]) -> tuple[float, float]:
    """Returns the share of right statuses, and of right decisions between negated and not."""
    right = negated = 0
    for row, said in zip(rows, found, strict=True):
        status = status_of({row["finding"]}, said, unmentioned="missed")
        right += status == row["status"]
        negated += (status == "absent") == (row["status"] == "absent")
    return right / len(rows), negated / len(rows)


def statuses_right(cases: list[dict[str, Any]], found: list[list[Found]]) -> float:
    """Returns the share of right statuses; what isn't mentioned counts as absent."""
    right = [
        status_of(set(asked["finding"].split("|")), said, unmentioned="absent")
        in {*asked["status"].split("/"), *asked.get("also_accepted", ())}
        for case, said in zip(cases, found, strict=True)
        for asked in case["truth"]
    ]
    return sum(right) / len(right)


def status_of(names: set[str], said: list[Found], unmentioned: str) -> str:
    """Returns what is said of a finding by any of its names, or else of a kind of it."""
    lineage = load_ontology().lineage
    exact = [(absent, hedged) for name, absent, hedged in said if name in names]
    of = exact or [(absent, hedged) for name, absent, hedged in said if not names.isdisjoint(lineage(name))]
    if any(not absent and not hedged for absent, hedged in of):
        return "present"
    if any(hedged and not absent for absent, hedged in of):
        return "uncertain"
    return "absent" if of else unmentioned


def write_corpus(openi: Path, root: Path, times: int) -> int:
    """Writes a normalised corpus of ``times`` copies of the reports and returns its number of studies."""
    config = configure(["corpus.kind=openi", f"corpus.path={openi}"])
    perform("corpus", config, root, silent)
    path = workspace_paths(root)["corpus"] / "studies.parquet"
    rows = pq.read_table(path).to_pylist()
    with pq.ParquetWriter(path, STUDIES_SCHEMA) as writer:
        for copy in range(times):
            made = [
                row
                | {name: f"{row[name]}-{copy}" for name in ("study_id", "patient_id")}
                | {name: row[name].replace(". ", f" {copy}.{number}. ") for name in ("findings", "impression")}
                for number, row in enumerate(rows)
            ]
            writer.write_table(pa.Table.from_pylist(made, schema=STUDIES_SCHEMA))
    return times * len(rows)


def peak_of_stage(root: Path, cores: set[int]) -> float:
    """Returns the most MiB that the vocabulary stage and its workers hold on the given cores."""
    script = (
        "import os\n"
        f"os.sched_setaffinity(0, {sorted(cores)})\n"
        "from pathlib import Path\n"
        "from medsynth_core.workspace.tree import Config\n"
        "from medsynth_core.progress import silent\n"
        "from medsynth_core.workspace.stages import perform\n"
        f"perform('vocabulary', Config(), Path({str(root)!r}), silent)\n"
    )
    child = psutil.Popen([sys.executable, "-c", script])
    peak = 0.0
    while child.poll() is None:
        try:
            held = [process.memory_info().rss for process in (child, *child.children(recursive=True))]
        except psutil.NoSuchProcess:
            continue
        peak = max(peak, sum(held) / 2**20)
        time.sleep(0.05)
    if child.returncode:
        raise SystemExit("the stage failed")
    return peak


if __name__ == "__main__":
    app()
