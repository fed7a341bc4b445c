"""Names of the classes whose numbers a Hugging Face data set holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml


def class_names(schema: pa.Schema, root: Path) -> dict[str, list[str]]:
    """Returns the names of classes by column, as the Parquet or else the card tells them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return _card(root)
    return {name: _classes(feature) for name, feature in features.items()}


def _classes(feature: Any) -> list[str]:
    """Returns the names of a ClassLabel, or of one in a list."""
    if isinstance(feature, list):
        feature = feature[0] if feature else {}
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        return [str(name) for name in feature.get("names") or ()]
    return _classes(feature.get("feature")) if feature.get("_type") in {"Sequence", "List", "LargeList"} else []


def _card(root: Path) -> dict[str, list[str]]:
    """Returns the names of classes in the header of ``README.md``, in the folder or the one above."""
    card = next((each / "README.md" for each in (root, root.parent) if (each / "README.md").is_file()), None)
    if card is None:
        return {}
    head = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", "replace"), re.DOTALL)
    try:
        said = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return {}
    about = said.get("dataset_info") if isinstance(said, dict) else None
    subsets = about if isinstance(about, list) else [about]
    features = [each for subset in subsets if isinstance(subset, dict) for each in subset.get("features") or ()]
    return {str(each["name"]): names for each in features if (names := _card_classes(each))}


def _card_classes(feature: Mapping[str, Any]) -> list[str]:
    """Returns the names of ``dtype: {class_label: {names: {'0': ...}}}``, or of one below ``sequence`` or ``list``."""
    kinds = [feature.get(key) for key in ("dtype", "sequence", "list")]
    for kind in kinds:
        inner = kind.get("dtype", kind) if isinstance(kind, dict) else None
        label = inner.get("class_label") if isinstance(inner, dict) else None
        if isinstance(label, dict) and isinstance(label.get("names"), dict):
            return [str(name) for _, name in sorted(label["names"].items(), key=lambda each: int(each[0]))]
    return []
