"""Parts that a setting names and that are a module each: to add one is to add its file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from medsynth_core.errors import ConfigError
from medsynth_core.nearest import did_you_mean


@dataclass(frozen=True)
class Plugins:
    """The modules of a package; a hyphen in a name is an underscore in its module's.

    They are listed without being loaded, so that reading params.yaml loads none of what they need.

    Attributes:
        package: dotted; what its ``__init__`` loads is light, and it holds nothing but such modules.
        setting: dotted place in params.yaml that names them.
        function: what each of them has, by which it is used.
    """

    package: str
    setting: str
    function: str

    def names(self) -> list[str]:
        """Returns the names of all, sorted."""
        return sorted(module.name for module in iter_modules(import_module(self.package).__path__))

    def checked(self, name: str) -> str:
        """Returns a name that a module has.

        Raises:
            ValueError: there is none; the message, for a validator, doesn't name the setting.
        """
        names = self.names()
        if module_of(name) not in names:
            raise ValueError(f"there is no {name!r}{did_you_mean(module_of(name), names)} There are {', '.join(names)}")
        return name

    def load(self, name: str) -> Any:
        """Returns the module of a name.

        Raises:
            ConfigError: there is none, it lacks its function, or a package that it needs isn't installed.
        """
        try:
            self.checked(name)
        except ValueError as error:
            raise ConfigError(f"{self.setting}: {error}") from None
        try:
            module = import_module(f"{self.package}.{module_of(name)}")
        except ModuleNotFoundError as error:
            raise ConfigError(f"{self.setting}: {name} needs the package {error.name}; install it") from error
        if not hasattr(module, self.function):
            raise ConfigError(f"{self.setting}: {module.__file__} has no function {self.function}")
        return module

    def open(self, name: str, *given: Any) -> Any:
        """Returns what the module's function makes of the arguments.

        Raises:
            ConfigError: as ``load``.
        """
        return getattr(self.load(name), self.function)(*given)

    def ask(self, name: str, function: str, *given: Any, default: Any = None) -> Any:
        """Returns what a function that a module may have makes of the arguments; the default where it has none.

        Raises:
            ConfigError: as ``load``.
        """
        module = self.load(name)
        return getattr(module, function)(*given) if hasattr(module, function) else default


def module_of(name: str) -> str:
    """Returns what the module of a name is called."""
    return name.replace("-", "_")
