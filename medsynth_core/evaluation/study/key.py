"""The key of a study: what each film is. It stays with those who sent the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medsynth_core.errors import InputError
from medsynth_core.evaluation.study.films import Origin

KEY = "key.json"


class KeyFilm(BaseModel):
    """What a film of the page is.

    Attributes:
        film: its token in the page and in the answers.
        source, group, split, view, findings: as ``films.Film``'s.
    """

    model_config = ConfigDict(frozen=True)
    film: str
    origin: Origin
    source: str
    group: str
    split: str
    view: str
    findings: tuple[str, ...]


class Key(BaseModel):
    """The key of one study.

    Attributes:
        study: its token, in the page and in the answers.
        release: name and hash of the dataset.
        corpus: kind of the real films' corpus.
        licence: the corpus' terms.
        side: of every film, in pixels.
        seed: with which the films were drawn.
        findings: that were asked for.
        films: in the order in which they are shown.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal["medsynth-study-key"] = "medsynth-study-key"
    version: Literal[1] = 1
    study: str
    release: str
    corpus: str
    licence: str
    side: int
    seed: int
    findings: tuple[str, ...]
    films: tuple[KeyFilm, ...]

    def save(self, path: Path) -> None:
        """Writes the key as JSON."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Key:
        """Returns a key from its file or from the folder of its study.

        Raises:
            InputError: it is missing or is no key.
        """
        if path.is_dir():
            path /= KEY
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"{path}: can't be read ({error.strerror}); name the folder of a study or its {KEY}"
            ) from error
        except ValidationError as error:
            raise InputError(
                f"{path}: no key of a study, or damaged; name the {KEY} that `medsynth study` wrote"
            ) from error
