"""A picture of the alignment: held-out studies, and over each the patches that its report's words choose."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.codebook import VisualCodebook, lift
from medsynth_core.training.pairs import Pairs

_STUDIES, _WORDS = 8, 6
_CELL_IN = 1.7


@torch.inference_mode()
def draw_words(model: AlignmentModel, codebook: VisualCodebook, pairs: Pairs, path: Path) -> None:
    """Writes a PNG: a row a study, each of other findings; its image, then a panel a voting word, coloured by how much
    better each patch answers to the word than what is usual there, with the best patch outlined.

    It shows images of the corpus: keep it where the models are kept.
    """
    distinct = np.unique(pairs.label_keys, return_index=True)[1].tolist()
    chosen = sorted(index for index in distinct if pairs.conditions[index].findings)[:_STUDIES]
    if not chosen:
        return
    words = model.encode_words([pairs.conditions[index].query for index in chosen])
    pixels = torch.from_numpy(pairs.pixels(np.array(chosen)))
    features_BPD = model.encode_patches(pixels.to(model.device)).features_BPD
    figure = Figure(figsize=((_WORDS + 1) * _CELL_IN, len(chosen) * (_CELL_IN + 0.35)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(chosen), _WORDS + 1, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    step = pixels.shape[-1] / model.side
    for row, index in enumerate(chosen):
        image = pixels[row, 0].numpy()
        panels[row, 0].imshow(image, cmap="gray", vmin=-1, vmax=1)
        title = textwrap.fill(pairs.conditions[index].query, 30, max_lines=3, placeholder=" …")
        panels[row, 0].set_title(title, fontsize=6, parse_math=False)
        voters = words.votes_TW[row].nonzero().flatten()[:_WORDS]
        lift_PW = lift(features_BPD[row], codebook.usual_CD.to(model.device), words.features_TWD[row, voters]).cpu()
        for panel, voter, lift_P in zip(panels[row, 1:], voters.tolist(), lift_PW.T, strict=False):
            panel.imshow(image, cmap="gray", vmin=-1, vmax=1)
            extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
            panel.imshow(lift_P.view(model.side, -1).numpy(), cmap="inferno", alpha=0.45, vmin=0, vmax=1, extent=extent)
            top, left = divmod(int(lift_P.argmax()), model.side)
            place = (left * step - 0.5, top * step - 0.5)
            panel.add_patch(Rectangle(place, step, step, fill=False, linewidth=1.2, edgecolor="#ffb000"))
            panel.set_title(f"{words.words[row][voter]} {float(lift_P.max()):.2f}", fontsize=7, parse_math=False)
    figure.savefig(path, metadata={"Software": None})
