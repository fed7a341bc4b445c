"""Several processes under ``accelerate launch`` train the model that one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from medsynth_core.config import Paths
from medsynth_core.workspace.params import dump_config
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration

PREPARED = ("data/corpus", "data/vocabulary", "models/classifier", "models/judge", "models/vqgan", "models/alignment")
# What `accelerate launch --use_fsdp` sets; that command itself starts several processes on GPUs only.
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
}


@pytest.mark.parametrize(
    ("model", "settings", "apart"), [("vqgan", {}, 0.05), ("llm", {}, 1e-5), ("llm", SHARDED, 1e-5)]
)
def test_processes_end_in_the_weights_of_one(
    trained: tuple[Config, Paths], tmp_path: Path, model: str, settings: dict[str, str], apart: float
) -> None:
    """To rounding for the LLM. The VQ-GAN weighs its terms by each forward pass' own samples, so its weights only come
    near; the alignment, whose negatives come from one forward pass, isn't compared."""
    config, paths = trained
    (tmp_path / "params.yaml").write_text(dump_config(config.model_copy(update={"device": "cpu"})))
    for name in PREPARED:
        if name != f"models/{model}":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).symlink_to(paths.root / name)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "medsynth_core.cli.main", f"train-{model}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    alone = load_file(paths[model] / "model.safetensors")
    together = load_file(tmp_path / "models" / model / "model.safetensors")
    assert set(together) == set(alone)
    for name, value in alone.items():
        assert float((together[name] - value).abs().max()) < apart, name
