"""torchxrayvision's DenseNet-121, an external judge of pathologies (J. P. Cohen et al., MIDL 2022).

Its files are pickled networks, which nothing here opens; a safetensors file is made of one where torchxrayvision is
installed and the file is trusted:

    import json, torchxrayvision as xrv
    from safetensors.torch import save_file
    net = xrv.models.DenseNet(weights="densenet121-res224-all")
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, "densenet121-res224-all.safetensors", {"pathologies": json.dumps(net.targets)})

The network is torchvision's, with one channel in, so that torchxrayvision itself isn't needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.models import densenet121

from medsynth_core.errors import InputError

_OURS = {
    "Atelectasis": "atelectasis",
    "Consolidation": "consolidation",
    "Infiltration": "infiltrate",
    "Pneumothorax": "pneumothorax",
    "Edema": "pulmonary edema",
    "Emphysema": "emphysema",
    "Fibrosis": "pulmonary fibrosis",
    "Effusion": "pleural effusion",
    "Pneumonia": "pneumonia",
    "Pleural_Thickening": "pleural thickening",
    "Cardiomegaly": "cardiomegaly",
    "Nodule": "lung nodule",
    "Mass": "mass",
    "Hernia": "hiatal hernia",
    "Fracture": "fracture",
    "Lung Opacity": "opacity",
    "Enlarged Cardiomediastinum": "mediastinal widening",
}
"""What the ontology calls an output. "Lung Lesion" is a nodule or a mass: it has no name of its own there."""
_SIDE = 224
_SCALE = 1024.0
"""Pixels are wanted in [-1024, 1024]."""


class XRayDenseNet(nn.Module):
    """The network with its operating points.

    Attributes:
        pathologies: one a logit, in the ontology's words.
        left_out: outputs that the ontology has no name for.
    """

    def __init__(self, outputs: list[str], thresholds: Tensor | None) -> None:
        super().__init__()
        self.net = densenet121(num_classes=len(outputs))
        self.net.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        self._kept = [place for place, name in enumerate(outputs) if name in _OURS]
        self.pathologies = [_OURS[outputs[place]] for place in self._kept]
        self.left_out = [name for name in outputs if name and name not in _OURS]
        points = torch.full((len(outputs),), 0.5) if thresholds is None else thresholds.float()
        self.register_buffer("points", torch.logit(points.nan_to_num(0.5)), persistent=False)

    @classmethod
    def load(cls, path: Path) -> XRayDenseNet:
        """Returns the network of a safetensors file, in evaluation mode.

        Raises:
            InputError: the file is missing, no safetensors file, or of another network.
        """
        if not path.is_file():
            raise InputError(f"{path}: no torchxrayvision weights there")
        try:
            with safe_open(path, framework="pt") as stream:
                outputs = json.loads((stream.metadata() or {})["pathologies"])
                state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path}: not a safetensors file with the metadata `pathologies` ({error}); torchxrayvision's own "
                f"files are pickled networks, which aren't opened: help({__name__}) says how to convert one"
            ) from error
        model = cls(outputs, state.pop("op_threshs", None))
        try:
            model.net.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise InputError(f"{path}: not torchxrayvision's DenseNet-121 ({str(error).splitlines()[0]})") from error
        return model.eval()

    def features(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns features float32 [B, 1024] of images in [-1, 1], resized to 224 x 224."""
        resized = F.interpolate(pixels_B1HW * _SCALE, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        return F.relu(self.net.features(resized)).mean((2, 3))

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns by how much each pathology's logit is above its operating point, [B, pathology]; above 0: found."""
        logits = self.net.classifier(self.features(pixels_B1HW))
        margins: Tensor = (logits - self.points)[:, self._kept]
        return margins
