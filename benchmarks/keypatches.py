"""Do the keypatches of a finding lie on the finding? Measured on phantoms, whose lesions are known.

    python -m benchmarks.keypatches WORKSPACE

A cell is on the lesion when the finding changes the picture there at least a third as much as where it changes it most.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import Finding, render_findings
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.condition import finding_phrase
from medsynth_core.workspace.stages import workspace_paths

SEED, PATIENTS = 930_001, 8
KEYPATCHES, FIRST = 8, 3
SIDED = (
    ("pleural effusion", "pleura", None),
    ("consolidation", "upper lobe", "upper"),
    ("consolidation", "lower lobe", "lower"),
    ("atelectasis", "lung base", None),
    ("lung nodule", "upper lobe", "upper"),
    ("lung nodule", "lower lobe", "lower"),
    ("pneumothorax", "pleura", None),
    ("hilar enlargement", "hilum", None),
    ("elevated hemidiaphragm", "diaphragm", None),
)
UNSIDED = (
    Finding("cardiomegaly", "heart", "none", "moderate"),
    Finding("pulmonary edema", "lung", "bilateral", "moderate"),
    Finding("emphysema", "lung", "bilateral", "moderate"),
)
FINDINGS = (
    *(Finding(p, a, side, "moderate", z) for (p, a, z), side in itertools.product(SIDED, ("left", "right"))),
    *UNSIDED,
)


def main(workspace: Annotated[Path, typer.Argument(help="A workspace with trained models, on phantoms.")]) -> None:
    """Prints by finding the share of its keypatches that lie on it, and of cells drawn at random."""
    paths = workspace_paths(workspace)
    model, codebook = AlignmentModel.load(paths["alignment"]), VisualCodebook.load(paths["alignment"] / "codebook")
    size = Corpus.open(paths["corpus"]).image_size
    queries = [finding_phrase(vars(finding)) for finding in FINDINGS]
    rows = []
    for finding, query, patches in zip(FINDINGS, queries, codebook.keypatches(model, queries, KEYPATCHES), strict=True):
        lesion = lesion_cells(finding, size, model.side)
        on = [bool(lesion[patch.cell]) for patch in patches]
        rows.append((np.mean(on), np.mean(on[:FIRST]), float(on[0]), lesion.mean()))
        print(f"{query:48} {len(on)} keypatches: {rows[-1][0]:.2f} on it, by chance {rows[-1][3]:.2f}")
    every, first, best, chance = np.mean(rows, 0)
    print(f"mean: {every:.2f}; of the first {FIRST} {first:.2f}, of the very first {best:.2f}; by chance {chance:.2f}")


def lesion_cells(finding: Finding, size: int, side: int) -> npt.NDArray[np.bool_]:
    """Returns which latent cells a finding changes, bool [side * side], on the mean of some patients."""
    step = size // side
    change = np.zeros((side, side))
    for index in range(PATIENTS):
        shown = render_findings((finding,), SEED, index, size).astype(float)
        bare = render_findings((), SEED, index, size)
        change += np.abs(shown - bare).reshape(side, step, side, step).mean((1, 3))
    return (change >= change.max() / 3).ravel()


if __name__ == "__main__":
    typer.run(main)
