"""What readers answered: the files that the page saves, read and checked against the key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from medsynth_core.corpus.records import NO_FINDING
from medsynth_core.errors import InputError
from medsynth_core.evaluation.study.films import Origin
from medsynth_core.evaluation.study.key import Key

_MOST_BYTES = 10_000_000


def _plain(text: str) -> str:
    """Returns one line of text that steers no terminal: what can't be printed becomes a space."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


_Line = Annotated[str, Field(max_length=1000), AfterValidator(_plain)]
_Name = Annotated[_Line, Field(min_length=1, max_length=60)]


class Reader(BaseModel):
    """Who answered.

    Attributes:
        name: or initials, as they please.
        role: radiologist or another, in the page's words.
        years: of reading chest radiographs; None: not said.
    """

    model_config = ConfigDict(frozen=True)
    name: _Name
    role: _Line = ""
    years: Annotated[float, Field(ge=0, le=80, allow_inf_nan=False)] | None = None


class Answer(BaseModel):
    """What was said of one film; None and an empty list say nothing.

    Attributes:
        film: its token.
        findings: those that were seen, or ``no finding`` alone.
        realism: 1 (not realistic at all) to 5 (fully realistic).
        seconds: for which the film was on the screen.
    """

    model_config = ConfigDict(frozen=True)
    film: str
    origin: Origin | None = None
    findings: tuple[str, ...] = ()
    realism: Annotated[int, Field(ge=1, le=5)] | None = None
    remark: _Line = ""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Answers(BaseModel):
    """A saved file.

    Attributes:
        saved: when, in ISO 8601.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal["medsynth-study-answers"]
    version: Literal[1]
    study: str
    reader: Reader
    saved: _Line
    answers: tuple[Answer, ...]


def read_answers(paths: Sequence[Path], key: Key) -> list[Answers]:
    """Returns the answers of each file.

    Raises:
        InputError: a file can't be read, isn't what the page saves, is of another study, or names a film or a finding
            that isn't in it or a film twice; two are of one reader; none has an answer.
    """
    of_reader: dict[str, tuple[Path, Answers]] = {}
    for path in paths:
        answers = _read(path)
        _check(answers, key, path)
        name = answers.reader.name.casefold()
        if name in of_reader:
            other, first = of_reader[name]
            raise InputError(
                f"{path}: of reader {answers.reader.name!r}, as {other} is; leave out the one that was saved "
                f"{min(first.saved, answers.saved)}, or give the two readers other names in the files"
            )
        of_reader[name] = path, answers
    found = [answers for _, answers in of_reader.values()]
    if not any(each.origin or each.findings or each.realism for answers in found for each in answers.answers):
        raise InputError(f"{', '.join(map(str, paths))}: no film is answered")
    return found


def _read(path: Path) -> Answers:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path}: more than {_MOST_BYTES} bytes, which no file of answers has")
    try:
        return Answers.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path}: no answers of a study, or damaged ({where}: {first['msg']}); ask the reader to save them again"
        ) from error


def _check(answers: Answers, key: Key, path: Path) -> None:
    if answers.study != key.study:
        raise InputError(f"{path}: answers of study {answers.study!r}, the key is of {key.study!r}")
    known, seen = {film.film for film in key.films}, set[str]()
    for answer in answers.answers:
        if answer.film not in known:
            raise InputError(f"{path}: film {answer.film!r} isn't in study {key.study!r}; the file was changed")
        if answer.film in seen:
            raise InputError(f"{path}: film {answer.film!r} is answered twice; the file was changed")
        seen.add(answer.film)
        unknown = [name for name in answer.findings if name not in key.findings]
        if unknown:
            raise InputError(
                f"{path}: film {answer.film!r} has {unknown[0]!r}, which wasn't asked; the file was changed"
            )
        if NO_FINDING in answer.findings and len(set(answer.findings)) > 1:
            raise InputError(f"{path}: film {answer.film!r} has no finding and others; the file was changed")
