"""What a person may change of a run in Prefect's form: some parameters of the tree, with their own bounds and help."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from medsynth_core.config.dotted import flat
from medsynth_core.prompts.settings import PROVIDERS
from medsynth_core.workspace.tree import Config

Override = Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[^.=]+)*=[\s\S]*$")]
"""``section.key=value``."""

_SHOWN = (
    "prompts.n",
    "prompts.provider",
    "prompts.max_findings",
    "prompts.normal_fraction",
    "synthesis.samples_per_prompt",
    "synthesis.guidance",
    "synthesis.temperature",
    "synthesis.top_p",
    "synthesis.seed",
    "release.name",
    "release.parent",
    "release.max_attempts",
    "runner.kind",
    "runner.in_flight",
    "runner.retries",
)
"""By their dotted names; all others can be said by ``overrides``."""
_CHOICES = {"prompts.provider": PROVIDERS.names}
"""Of parameters whose type is a text."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _form() -> type[_Part]:
    """Returns the model of the form: a part a section, in which each field may be left out."""
    parts: dict[str, dict[str, Any]] = {}
    for name in _SHOWN:
        section, _, key = name.partition(".")
        parts.setdefault(section, {})[key] = _field(section, key)
    made = {section: create_model(section, __base__=_Part, **fields) for section, fields in parts.items()}
    fields: dict[str, Any] = {section: (part, Field(default_factory=part)) for section, part in made.items()}
    return create_model("Changes", __base__=_Part, **fields)


def _field(section: str, key: str) -> tuple[Any, Any]:
    """Returns type and field of a parameter that may be left out, with its bounds, help and choices."""
    kind: Any = Config.model_fields[section].annotation
    field = kind.model_fields[key]
    value: Any = field.annotation
    if choices := _CHOICES.get(f"{section}.{key}"):
        value = Literal[tuple(choices())]
    for bound in field.metadata:
        value = Annotated[value, bound]
    help_ = " ".join((field.description or "").split())
    return value | None, Field(default=None, title=f"{section}.{key}", description=help_)


if TYPE_CHECKING:

    class Changes(_Part):
        """Parameters of one run, as Prefect's form has them."""

else:
    Changes = _form()


AS_IN_PARAMS = Changes()
"""A form in which nothing is filled in."""


def as_overrides(changes: Changes, overrides: Iterable[str] | None) -> list[str]:
    """Returns what was filled in and what was said besides, as section.key=value; the latter goes before."""
    filled = flat(changes.model_dump(mode="json", exclude_none=True))
    return [*(f"{name}={json.dumps(value)}" for name, value in filled.items() if value != {}), *(overrides or ())]
