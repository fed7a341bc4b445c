"""The labelling judge: a finding classifier of patients that no other model learnt from, with its temperature, and a
segmenter of organs where those patients' images have masks.

Its folder is a finding classifier's, so that whatever wants features can load it as one.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from medsynth_core.errors import InputError
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.segmenter import OrganSegmenter

_FILE = "temperature.json"
_ORGANS = "organs"
"""Folder of the segmenter in the judge's."""


class Judge(nn.Module):
    """A classifier whose logits are divided by a temperature, so that their sigmoid is a probability.

    Attributes:
        labels: one (term, side) a logit: pathologies, and the places in which they lie.
        segmenter: None where the corpus has no masks.
    """

    def __init__(self, net: FindingClassifier, temperature: float, segmenter: OrganSegmenter | None = None) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature
        self.labels = net.labels
        self.segmenter = segmenter

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns calibrated logits [B, L] of images in [-1, 1]."""
        return self.see(pixels_B1HW)[0]

    def see(self, pixels_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Returns calibrated logits [B, L] of images in [-1, 1] and the output of the classifier's last stage."""
        grid = self.net.features(pixels_B1HW)[-1]
        return self.net.head(grid).float() / self.temperature, grid

    def save(self, folder: Path) -> None:
        """Writes classifier, temperature and segmenter into ``folder``."""
        self.net.save(folder)
        if self.segmenter is not None:
            self.segmenter.save(folder / _ORGANS)
        (folder / _FILE).write_text(json.dumps({"temperature": self.temperature}) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """Returns the saved judge in evaluation mode.

        Raises:
            InputError: the folder holds none, or its weights don't fit its config.
        """
        net = FindingClassifier.load(folder)
        try:
            temperature = float(json.loads((folder / _FILE).read_text("utf-8"))["temperature"])
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise InputError(f"{folder / _FILE}: no temperature there; run `medsynth train-judge` again") from error
        segmenter = OrganSegmenter.load(folder / _ORGANS) if (folder / _ORGANS).is_dir() else None
        return cls(net, temperature, segmenter).eval()
