"""A reader, a provider, an extractor and a judge are a file each: dropped in, they are accepted and used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from medsynth_core.config.plugins import Plugins
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.settings import READERS
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.evaluation.extractors import load_extractor
from medsynth_core.evaluation.judges import load_judge
from medsynth_core.evaluation.settings import EXTRACTORS, JUDGES
from medsynth_core.progress import silent
from medsynth_core.prompts.settings import PROVIDERS
from medsynth_core.workspace.check import check
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.stages import perform, workspace_paths
from tests.conftest import tiny

READER = """
from pathlib import Path

import numpy as np

from medsynth_core.corpus.records import Source, Study, View
from medsynth_core.errors import InputError


def open_source(config, seed):
    files = sorted(Path(config.path).glob("*.txt"))
    if not files:
        raise InputError(f"{config.path}: no report there; set corpus.path to a folder of .txt files")
    return Source(map(_study, files), len(files), "CC0")


def _study(file):
    view = View(file.stem, "frontal", str(file), lambda: np.zeros((64, 64), dtype=np.uint8))
    return Study(file.stem, file.stem, file.read_text(), "", (view,))
"""

PROVIDER = """
from medsynth_core.config.section import Section
from medsynth_core.errors import ConfigError
from medsynth_core.prompts.records import Draft, Reply


class NotesConfig(Section):
    opening: str = "There is"


SETTINGS = NotesConfig


def check(settings):
    if not settings.opening:
        raise ConfigError("prompts.short_notes.opening is empty; set it")


def open_provider(settings, vocabulary, seed, device):
    return NotesProvider(settings)


class NotesProvider:
    name = "short-notes"
    keeps = False

    def __init__(self, config):
        self.settings = config.model_dump()

    def write(self, assignments, account):
        for assignment in assignments:
            text = " ".join(self._said(finding) for finding in assignment.request.findings) or "The lungs are clear."
            yield Reply((assignment,), (Draft(text),), text)

    def _said(self, finding):
        side = "" if finding.side == "none" else finding.side
        words = (self.settings["opening"], finding.severity, side, finding.pathology)
        return " ".join(word for word in words if word) + "."
"""

EXTRACTOR = """
from torch import nn

from medsynth_core.errors import InputError
from medsynth_core.config.entries import file_at

PLACE = "needed"


def check(place, paths):
    if not file_at(place, paths).is_file():
        raise InputError(f"evaluation.extractors: {place} isn't there")


def open_extractor(place, paths):
    return MeanGrey(float(file_at(place, paths).read_text()))


class MeanGrey(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, images_BHW):
        return images_BHW.float().mean((1, 2), keepdim=True)[:, 0] * self.scale
"""

JUDGE = """
from medsynth_core.evaluation.networks import FindingJudge


def open_judge(place, paths):
    return Sceptic()


class Sceptic(FindingJudge):
    terms = ("opacity",)

    def forward(self, images_BHW):
        return images_BHW.float().mean((1, 2), keepdim=True)[:, 0] - 255
"""

Drop = Callable[[Plugins, str, str], None]


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Puts a module where those of a kind are looked for."""
    before = set(sys.modules)

    def put(kind: Plugins, name: str, text: str) -> None:
        package = import_module(kind.package)
        folder = tmp_path / kind.package
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])

    yield put
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("setting", "wrong", "nearest"),
    [
        ("corpus.kind", "opni", "openi"),
        ("prompts.provider", "templat", "template"),
        ("evaluation.extractors", "[judge, inceptoin]", "inception"),
        ("evaluation.judges", "['torchxray:file']", "torchxrayvision"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest_and_all(setting: str, wrong: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure([f"{setting}={wrong}"])
    said = str(caught.value)
    assert f"{setting}: there is no " in said
    assert f"did you mean {nearest!r}? There are " in said
    assert "\n" not in said


def test_settings_list_modules_without_loading_them() -> None:
    code = (
        "import sys; from medsynth_core.workspace.params import configure; "
        "configure(['evaluation.extractors=[\"transformers:name\", inception]']); "
        "configure(['corpus.kind=openi', 'corpus.path=x']); "
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'transformers', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_is_one_file(drop: Drop, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.kind: there is no 'text-folder'"):
        configure(["corpus.kind=text-folder", "corpus.path=reports"])
    drop(READERS, "text_folder", READER)
    with pytest.raises(ConfigError, match=r"corpus\.path is needed for corpus\.kind=text-folder"):
        configure(["corpus.kind=text-folder"])
    config = tiny(corpus={"kind": "text-folder", "path": str(tmp_path / "reports")})
    (tmp_path / "reports").mkdir()
    with pytest.raises(InputError, match="no report there"):
        check(config, tmp_path, ["corpus"])
    for number in range(20):
        (tmp_path / "reports" / f"s{number}.txt").write_text("There is a small opacity.")
    paths = workspace_paths(tmp_path)
    perform("corpus", config, tmp_path, silent)
    assert Corpus.open(paths["corpus"]).n_studies() == 20
    assert json.loads((paths["corpus"] / "corpus.json").read_text())["licence"] == "CC0"


def test_a_module_that_cannot_be_used_is_one_line(drop: Drop) -> None:
    drop(READERS, "empty", "")
    drop(READERS, "lacking", "import no_such_package")
    with pytest.raises(ConfigError, match=r"corpus\.kind: .*empty\.py has no function open_source"):
        READERS.load("empty")
    with pytest.raises(ConfigError, match=r"corpus\.kind: lacking needs the package no_such_package; install it"):
        READERS.load("lacking")


@torch.inference_mode()
def test_an_extractor_is_one_file(drop: Drop, tmp_path: Path) -> None:
    drop(EXTRACTORS, "mean_grey", EXTRACTOR)
    config = configure(["evaluation.extractors=['mean-grey:scale.txt']"])
    with pytest.raises(InputError, match=r"scale\.txt isn't there"):
        check(config, tmp_path, ["evaluation"])
    (tmp_path / "scale.txt").write_text("2")
    check(config, tmp_path, ["evaluation"])
    net = load_extractor("mean-grey:scale.txt", workspace_paths(tmp_path))
    assert not net.training
    assert net(torch.full((3, 8, 8), 5, dtype=torch.uint8)).tolist() == [[10.0]] * 3


@torch.inference_mode()
def test_a_judge_is_one_file(drop: Drop, tmp_path: Path) -> None:
    drop(JUDGES, "sceptic", JUDGE)
    check(configure(["evaluation.judges=[sceptic]"]), tmp_path, ["evaluation"])
    judge = load_judge("sceptic", workspace_paths(tmp_path))
    assert judge.terms == ("opacity",)
    assert judge(torch.zeros((2, 8, 8), dtype=torch.uint8)).tolist() == [[-255.0]] * 2


@pytest.mark.parametrize(
    ("setting", "entry", "said"),
    [
        ("extractors", "judge:here", "'judge:here' names a place, but judge takes none; write judge alone"),
        ("extractors", "transformers", "transformers needs a place"),
        ("judges", "torchxrayvision", "write torchxrayvision:PLACE"),
    ],
)
def test_a_place_too_many_or_too_few_is_said_before_a_run(setting: str, entry: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check(configure([f"evaluation.{setting}=['{entry}']"]), tmp_path, ["evaluation"])
    assert str(caught.value).startswith(f"evaluation.{setting}: ")
    with pytest.raises(ConfigError, match=said):
        (load_extractor if setting == "extractors" else load_judge)(entry, workspace_paths(tmp_path))


def test_a_provider_is_one_file(tmp_path: Path) -> None:
    """Its section is put together when the settings are loaded, so by a process that begins with the file."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "short_notes.py").write_text(PROVIDER)
    (tmp_path / "run.py").write_text(
        f"""
import sys
from pathlib import Path

import medsynth_core.prompts.providers as package

package.__path__.append({str(tmp_path / "more")!r})

from medsynth_core.errors import ConfigError
from medsynth_core.progress import silent
from medsynth_core.workspace.check import check
from medsynth_core.workspace.params import configure, dump_config
from medsynth_core.workspace.stages import perform

root = Path({str(tmp_path)!r})
given = ["prompts.provider=short-notes", "prompts.n=5", "prompts.max_similarity=1", "prompts.normal_fraction=0",
         "corpus.n_studies=325", "corpus.image_size=32", "vocabulary.min_studies=3"]
for wrong in ("prompts.short_notes.opning=x", "prompts.short_notes.opening=''"):
    try:
        check(configure([*given, wrong]), root, ["prompts"])
    except ConfigError as error:
        print(error)
config = configure([*given, "prompts.short_notes.opening=One sees"])
assert "  short_notes:\\n    opening: One sees\\n" in dump_config(config)
for stage in ("corpus", "vocabulary", "prompts"):
    perform(stage, config, root, silent)
print((root / "data" / "prompts" / "account.json").read_text())
"""
    )
    done = subprocess.run([sys.executable, str(tmp_path / "run.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unknown, empty, account = done.stdout.split("\n", 2)
    assert unknown.endswith("did you mean 'prompts.short_notes.opening'?")
    assert empty == "prompts.short_notes.opening is empty; set it"
    assert json.loads(account)["provider"] == "short-notes"
    assert json.loads(account)["requested"] == 5
    assert json.loads(account)["accepted"] > 0


def test_a_provider_without_settings_is_given_an_empty_section(drop: Drop) -> None:
    drop(
        PROVIDERS,
        "silent",
        "def open_provider(settings, vocabulary, seed, device):\n    return settings, seed, device\n",
    )
    prompts = configure(["prompts.provider=silent"]).prompts
    settings, *rest = PROVIDERS.open(prompts.provider, prompts.settings, None, 3, "cpu")
    assert settings.model_dump() == {}
    assert rest == [3, "cpu"]
