from pathlib import Path

import pytest

from medsynth_core.errors import ConfigError
from medsynth_core.workspace.params import PRESETS, configure, dump_config, load_config
from medsynth_core.workspace.tree import Config

ROOT = Path(__file__).parents[2]


def test_the_projects_params_are_the_defaults() -> None:
    assert load_config(ROOT / "params.yaml") == Config()


def test_a_dumped_tree_reads_back_equal(tmp_path: Path) -> None:
    config = configure(["corpus.n_studies=7", "prompts.targets={pneumothorax: 3}"], "paper")
    (tmp_path / "params.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "params.yaml") == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    config = configure([], name)
    assert config.corpus.image_size // config.models.vqgan.downsampling >= 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("synthesis.tempratur=1", "did you mean 'synthesis.temperature'"),
        ("synthesis.temperature=warm", "synthesis.temperature"),
        ("corpus.kind=openi", "corpus.path is needed"),
        ("models.vqgan.channels=[10, 10]", "norm_groups"),
        ("models.alignment.image_channels=[8]", "image_channels"),
        ("release.license_link=LICENSE", "release.license_link"),
        ("nonsense", "expected section.key=value"),
    ],
)
def test_a_wrong_override_is_one_line_that_says_what_to_do(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        configure([override])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected sections"):
        load_config(tmp_path / "params.yaml")
