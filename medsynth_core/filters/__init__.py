"""The filters, one a module; each module of this package that has a ``FILTER`` adds one."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model, field_validator

from medsynth_core.config.section import Section
from medsynth_core.filters.spec import Column, Filter
from medsynth_core.nearest import did_you_mean


def _found() -> tuple[Filter[Any, Any], ...]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    found = [module.FILTER for module in modules if hasattr(module, "FILTER")]
    return tuple(sorted(found, key=lambda each: (each.cost, each.name)))


FILTERS = _found()
"""All, the cheap ones first, as they run."""
COLUMNS: tuple[Column, ...] = tuple(column for each in FILTERS for column in each.columns)
"""Of the manifest, in the order of the filters."""


class QualitySettings(Section):
    """What the filters have in common. A filter's quantile is the share of real held-out images, as the tokenizer
    renders them, that lie beyond its bound, so that a setting means the same on every corpus."""

    enabled: tuple[str, ...] = tuple(each.name for each in FILTERS if each.on)
    """Which run; cheap ones first, whatever order they are named in."""
    margin: float = Field(default=0.5, ge=0.0)
    """Bounds of most filters lie farther from the median by this share of the quantile's distance: few held-out images
    don't reach far into the tail."""

    @field_validator("enabled")
    @classmethod
    def _known(cls, enabled: tuple[str, ...]) -> tuple[str, ...]:
        names = [each.name for each in FILTERS]
        for name in enabled:
            if name not in names:
                raise ValueError(f"there is no filter {name!r}{did_you_mean(name, names)}")
        return enabled

    def of(self, name: str) -> Section:
        """Returns the section of a filter."""
        section: Section = getattr(self, name)
        return section

    def recorded(self) -> dict[str, Any]:
        """Returns what decides verdicts: which filters run, what they have in common, and the sections of these alone,
        so that a setting of another one changes nothing."""
        running = self.running()
        return {
            "enabled": [each.name for each in running],
            "margin": self.margin,
            **{each.name: self.of(each.name).model_dump(mode="json") for each in running},
        }

    def running(self) -> list[Filter[Any, Any]]:
        """Returns the enabled filters in the order in which they run."""
        return [each for each in FILTERS if each.name in self.enabled]


def _field(each: Filter[Any, Any]) -> Any:
    return each.settings, Field(default=each.settings(), description=each.settings.__doc__)


if TYPE_CHECKING:
    QualityConfig = QualitySettings
else:
    QualityConfig = create_model(
        "QualityConfig",
        __base__=QualitySettings,
        __doc__=QualitySettings.__doc__,
        **{each.name: _field(each) for each in FILTERS},
    )
    """Section ``quality``: what filters have in common, and a section a filter."""
