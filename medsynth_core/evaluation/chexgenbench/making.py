"""Images of given prompts by a workspace's own models, kept in a folder: a call that was stopped is gone on with."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsynth_core.config import Paths
from medsynth_core.corpus.marks import strip_marks
from medsynth_core.errors import InputError
from medsynth_core.evaluation.chexgenbench.protocol import MADE_IMAGES, MADE_PROMPTS, MADE_TABLES
from medsynth_core.evaluation.chexgenbench.tables import Annotation, Made
from medsynth_core.models.artifact import model_digests, pick_device, resolve_precision
from medsynth_core.models.condition import Condition
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import write_bytes_atomically
from medsynth_core.synthesis.identity import image_id, spec_hash
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.synthesis.worker import encode_png
from medsynth_core.vocabulary.mining import mine_report, positive_findings

_ABOUT = "made.json"
_AT_ONCE = 32
"""Images between two looks at the folder; what a kill loses at most."""
_ID = re.compile(r"[\w.-]{1,120}")


@dataclass(frozen=True)
class _Wanted:
    prompt: PromptRow
    sample: int
    file: str


class Maker:
    """The models of a workspace, loaded when the first image is missing."""

    def __init__(self, params: SynthesisParams, paths: Paths) -> None:
        """Raises InputError where a model is missing."""
        self._params, self._paths = params, paths
        precision = resolve_precision(params.synthesis.precision, pick_device(params.device))
        self.spec = spec_hash([], model_digests(paths), params.synthesis, precision)
        self._loaded: Synthesiser | None = None

    def make(self, annotations: Sequence[Annotation], samples: int, folder: Path, progress: Progress) -> list[Made]:
        """Returns so many images of each prompt, made where they aren't there, with ``prompt_INFO.csv`` beside them. An
        image follows from models, sampling settings, prompt and number alone, whichever prompts are beside it.

        Raises:
            InputError: the folder has images of other models or settings.
            StoreError: it can't be written.
        """
        self._claim(folder)
        wanted = [each for annotation in annotations for each in _wanted(annotation, samples)]
        missing = [each for each in wanted if not (folder / each.file).is_file()]
        for start in range(0, len(missing), _AT_ONCE):
            progress(len(wanted) - len(missing) + start, len(wanted), "images")
            self._write(missing[start : start + _AT_ONCE], folder)
        prompts = [annotation.prompt for annotation in annotations for _ in range(samples)]
        _write_table(prompts, wanted, folder)
        return [
            Made(str(folder / each.file), prompt, folder / each.file)
            for each, prompt in zip(wanted, prompts, strict=True)
        ]

    def _claim(self, folder: Path) -> None:
        about = folder / _ABOUT
        if about.is_file():
            try:
                told = json.loads(about.read_text("utf-8"))["spec"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{about}: damaged; name another folder by --make") from error
            if told != self.spec:
                raise InputError(
                    f"{folder}: has images of other models or sampling settings ({told[:8]}, now {self.spec[:8]}); "
                    f"name another folder by --make"
                )
        elif folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: not empty, and not made by --make; name another folder")
        else:
            write_bytes_atomically(about, (json.dumps({"spec": self.spec}) + "\n").encode())

    def _write(self, wanted: Sequence[_Wanted], folder: Path) -> None:
        synthesiser = self._loaded = self._loaded or Synthesiser.load(self._params, self._paths)
        prompts = [each.prompt for each in wanted]
        ids = [image_id(self.spec, each.prompt.prompt_id, each.sample) for each in wanted]
        images = synthesiser.images(ids, prompts, synthesiser.keypatches(prompts))
        for each, image in zip(wanted, images, strict=True):
            write_bytes_atomically(folder / each.file, encode_png(image))


def as_prompt(text: str) -> PromptRow:
    """Returns a text as the models are asked for it: its findings as the miner reads them, frontal."""
    plain = strip_marks(text)
    condition = Condition(tuple(positive_findings(mine_report(plain))), "frontal")
    return PromptRow(hashlib.sha256(text.encode()).hexdigest()[:24], plain, condition)


def _wanted(annotation: Annotation, samples: int) -> Iterator[_Wanted]:
    prompt = as_prompt(annotation.prompt)
    called = annotation.id if _ID.fullmatch(annotation.id) else prompt.prompt_id
    for sample in range(samples):
        name = f"SyntheticImg_{called}" if samples == 1 else f"{called}_gen_{sample}"
        yield _Wanted(prompt, sample, f"{name}.png")


def _write_table(prompts: Sequence[str], wanted: Sequence[_Wanted], folder: Path) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([MADE_PROMPTS[0], MADE_IMAGES[0]])
    writer.writerows((prompt, each.file) for prompt, each in zip(prompts, wanted, strict=True))
    write_bytes_atomically(folder / MADE_TABLES[0], sink.getvalue().encode())
