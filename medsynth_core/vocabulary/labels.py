"""Labels of findings: (term, side) pairs, of which a term is a pathology or the place of one.

Shapes: N images, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.vocabulary.ontology import load_ontology

Label = tuple[str, str]
Findings = Sequence[Mapping[str, Any]]
SIDES = ("right", "left")


def pathology_labels(findings: Findings) -> set[Label]:
    """Returns (pathology, side) of every finding; a bilateral one, and one without a side, has both."""
    return {(finding["pathology"], side) for finding in findings for side in _sides(finding)}


def anatomy_labels(findings: Findings) -> set[Label]:
    """Returns (anatomy, side) of every place in which a finding lies, and of the ever broader ones around it."""
    return {
        (place, side)
        for finding in findings
        for place in load_ontology().lineage(finding["anatomy"])
        for side in _sides(finding)
    }


def is_anatomy(term: str) -> bool:
    """Returns whether a label's term is a place, not a pathology."""
    listed = load_ontology().terms.get(term)
    return listed is not None and listed.kind == "anatomy"


def label_matrix(labels: Sequence[Label], findings: Sequence[Findings]) -> npt.NDArray[np.float32]:
    """Returns 1 for each label that an image's findings have, else 0; float32 [N, L]."""
    shown = [pathology_labels(each) | anatomy_labels(each) for each in findings]
    rows = [[label in every for label in labels] for every in shown]
    return np.array(rows, dtype=np.float32).reshape(len(findings), len(labels))


def _sides(finding: Mapping[str, Any]) -> Sequence[str]:
    return (finding["side"],) if finding["side"] in SIDES else SIDES
