"""What CheXGenBench prescribes: numbers and names. Files are those of github.com/Raman1121/CheXGenBench."""

from __future__ import annotations

from functools import lru_cache

from medsynth_core.vocabulary.given import findings_of
from medsynth_core.vocabulary.labels import Findings
from medsynth_core.vocabulary.ontology import load_ontology

NO_FINDING = "No Finding"
PATHOLOGIES = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    NO_FINDING,
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
"""Of the conditional tables (metrics/fid.py, MIMIC_PATHOLOGIES)."""
NEAREST_K = 5
"""k of precision, recall, density and coverage (metrics/fid.py, compute_prdc_metric)."""
KID_SUBSETS = 100
"""Subsets of KID, each of as many images as the smaller side has (metrics/fid.py)."""
INCEPTION_SPLITS = 10
"""Of the inception score: torchmetrics' default."""
SIDE = 299
"""Of the images that all feature networks are given, resized whatever their shape (metrics/fid.py)."""
PRIVACY_PROMPTS = 2000
"""Training prompts (scripts/privacy_metrics.sh, SUBSET)."""
PRIVACY_IMAGES = 10
"""Images a training prompt (metrics/privacy_metrics.py, NUM_GENERATIONS)."""
PRIVACY_SIDE = 512
"""Of the images whose distances are taken, and of which those of the re-identification network are made
(metrics/privacy_metrics.py)."""

PROMPT = "annotated_prompt"
"""Column of prompts in its annotations (LLAVARAD_ANNOTATIONS_TEST.csv, ..._TRAIN.csv)."""
PATH, ID, LABELS = "path", "id", "chexpert_labels"
"""Columns of films, of ids and of labels, a Python dictionary of 1, 0 and -1, in its annotations."""
MADE_PROMPTS = ("prompt", PROMPT)
"""Columns of prompts in tables of synthetic images: README.md, tools/generate_data_common.py."""
MADE_IMAGES = ("img_savename", "synthetic_filename")
"""Columns of synthetic images: README.md and metrics/fid.py, tools/generate_data_common.py."""
MADE_TABLES = ("prompt_INFO.csv", "generations_with_metadata.csv")
"""What it calls tables of synthetic images."""
FIDELITY_COLUMNS = (
    "FID",
    "FID (RadDino)",
    "Inception Score",
    "KID",
    "KID (RadDino)",
    "Precision",
    "Recall",
    "Density",
    "Coverage",
    "Extra Info",
    "Caption Type",
)
"""Of image_generation_metrics.csv (metrics/fid.py); the conditional table has Pathology behind them."""
ALIGNMENT_COLUMNS = ("Alignment_score", "Extra Info")
"""Of img_text_alignment.csv (metrics/img_text_alignment_scores.py); the conditional table has Pathology behind them."""
PRIVACY_COLUMNS = (
    "Real Path",
    "Prompt",
    "Mean_reid_scores",
    "Max_reid_scores",
    "Mean_pixel_distance",
    "Min_pixel_distance",
    "Mean_latent_distance",
    "Min_latent_distance",
)
"""Of privacy_metrics_<model>.csv, a row a training prompt (metrics/privacy_metrics.py)."""

_BESIDE = {"lung nodule": "Lung Lesion", "pleural thickening": "Pleural Other"}
"""Terms of ours that vocabulary/names.yaml doesn't give: the CheXpert labeller, whose labels these are, counts nodules
and pleural thickening so (stanfordmlgroup/chexpert-labeler, phrases/mention/lung_lesion.txt, pleural_other.txt)."""


def pathologies_of(findings: Findings) -> frozenset[str]:
    """Returns which of ``PATHOLOGIES`` findings of ours are: each is the nearest that it or a broader term of it has;
    ``NO_FINDING`` of none, nothing for those that have no name there."""
    if not findings:
        return frozenset([NO_FINDING])
    named = _names()
    lineages = (load_ontology().lineage(finding["pathology"]) for finding in findings)
    nearest = (next((named[term] for term in lineage if term in named), None) for lineage in lineages)
    return frozenset(name for name in nearest if name is not None)


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Returns their name by our term."""
    found = {mention.term: name for name in PATHOLOGIES for mention in findings_of(name) or ()}
    return found | _BESIDE
