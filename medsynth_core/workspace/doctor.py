"""What a machine and a workspace lack for a run, a line each: asked before the night, not within it."""

from __future__ import annotations

import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement

import medsynth_core
from medsynth_core.errors import ConfigError, DiskError, MedsynthError, StateError, TransientError
from medsynth_core.storage.store import open_store
from medsynth_core.workspace import stages
from medsynth_core.workspace.check import check, check_space
from medsynth_core.workspace.params import load_config
from medsynth_core.workspace.tree import Config

_SKEW_S = 60.0
"""S3 refuses requests whose time is off by 15 minutes; Prefect's schedules go by its server's clock."""
_PATIENCE_S = 10.0
_GB = 1e9


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        text: what is so, or what is wrong and what to do.
        exit_code: 0: nothing is wrong, or nothing that stops a run.
    """

    name: str
    text: str
    exit_code: int = 0


def examine(root: Path) -> Iterator[Finding]:
    """Yields what each check found, cheap ones first; those of the workspace need its params.yaml."""
    for name, look in _OF_THE_MACHINE:
        yield _found(name, look)
    try:
        config = load_config(root / "params.yaml")
    except MedsynthError as error:
        yield Finding("parameters", str(error), error.exit_code)
        return
    yield Finding("parameters", str(root / "params.yaml"))
    for name, of_workspace in _OF_THE_WORKSPACE:
        yield _found(name, lambda look=of_workspace: look(config, root))  # type: ignore[misc]


def _found(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, look())
    except MedsynthError as error:
        return Finding(name, str(error), error.exit_code)


def _packages() -> str:
    """Compares what is installed with requirements.lock, where the code is a checkout that has one."""
    lock = Path(medsynth_core.__file__).parent.parent / "requirements.lock"
    if not lock.is_file():
        return f"medsynth {medsynth_core.__version__}, installed without a lock"
    lines = re.findall(r"^[A-Za-z0-9][^\\\n]+", lock.read_text("utf-8"), re.MULTILINE)
    pinned = [each for each in map(Requirement, lines) if each.marker is None or each.marker.evaluate()]
    other = []
    for each in pinned:
        try:
            if (found := version(each.name)) not in each.specifier:
                other.append(f"{each.name} {found} (locked {each.specifier})")
        except PackageNotFoundError:
            other.append(f"{each.name} is missing")
    if other:
        some = ", ".join(other[:5])
        raise StateError(f"{len(other)} packages differ from requirements.lock: {some}; run `make setup`")
    return f"{len(pinned)} as in requirements.lock"


def _tools() -> str:
    missing = [tool for tool in ("git",) if shutil.which(tool) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not found; install it")
    return "git and DVC are here"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none is seen: everything runs on the CPU, slowly"
    names = []
    for gpu in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(gpu)
        names.append(f"{torch.cuda.get_device_name(gpu)}, {free / _GB:.0f} of {total / _GB:.0f} GB free")
    triton = "with Triton" if find_spec("triton") else "without Triton: decoding is slower"
    return f"{'; '.join(names)}; {triton}"


def _compiler() -> str:
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    return found or "none found: steps on a GPU aren't compiled, which is slower; install gcc"


def _prefect() -> str:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return "PREFECT_API_URL isn't set: a run starts a server of its own"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_PATIENCE_S) as answer:
            _check_clock(answer.headers["date"], url)
    except OSError as error:
        raise TransientError(f"{url} doesn't answer ({error}); start it, or correct PREFECT_API_URL") from error
    return f"{url} answers"


def _check_clock(date: str | None, where: str) -> None:
    if date is None:
        return
    apart = time.time() - parsedate_to_datetime(date).timestamp()
    if abs(apart) > _SKEW_S:
        raise StateError(f"the clock is {apart:+.0f} s off that of {where}; set it (chrony, systemd-timesyncd)")


def _pipeline(config: Config, root: Path) -> str:
    check(config, root)
    return "every setting names what is there"


def _store(config: Config, root: Path) -> str:
    store = open_store(config.store, root)
    store.check_writable()
    return f"{store.url} can be written, and a record once only"


def _clock(config: Config, root: Path) -> str:
    url = config.store.endpoint_url or ("https://s3.amazonaws.com" if config.store.url.startswith("s3://") else None)
    if url is None:
        return f"the store is a folder; it is {time.strftime('%H:%M:%S %Z')} here"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE_S) as answer:
            date = answer.headers["date"]
    except urllib.error.HTTPError as error:
        date = error.headers["date"]
    except OSError as error:
        raise TransientError(f"{urlsplit(url).netloc} can't be asked for the time ({error})") from error
    _check_clock(date, urlsplit(url).netloc)
    return f"within {_SKEW_S:.0f} s of {urlsplit(url).netloc}"


def _disk(config: Config, root: Path) -> str:
    check_space(config, root, {stage.name for stage in stages.STAGES})
    free = shutil.disk_usage(root).free
    if free < _GB:
        raise DiskError(f"{root}: {free / _GB:.2f} GB are free; make room")
    return f"{free / _GB:.0f} GB free at {root}"


def _models(config: Config, root: Path) -> str:
    """Whether models are there, and of the parameters that a run would train them with."""
    if config.models.path is not None:
        return f"{config.models.path} has all that is used"  # which `check` has seen
    trained = [stage for stage in stages.STAGES if stage.given]
    stale = [stage.name for stage in trained if not stages.is_fresh(stage.name, config, root)]
    if not stale:
        return "trained, with these parameters"
    missing = [name for name in stale if not (root / stages.find_stage(name).out).exists()]
    return f"a run will train {', '.join(stale)} ({'none yet' if missing == stale else 'parameters or inputs changed'})"


_OF_THE_MACHINE: tuple[tuple[str, Callable[[], str]], ...] = (
    ("packages", _packages),
    ("tools", _tools),
    ("compiler", _compiler),
    ("gpu", _gpu),
    ("prefect", _prefect),
)
_OF_THE_WORKSPACE: tuple[tuple[str, Callable[[Config, Path], str]], ...] = (
    ("disk", _disk),
    ("store", _store),
    ("clock", _clock),
    ("models", _models),
    ("settings", _pipeline),
)
