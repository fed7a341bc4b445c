"""What the card and croissant.json both say of a release, as sentences read off its ``release.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

About = Mapping[str, Any]

CITATION = """@inproceedings{chen2024medical,
  title = {Medical Image Synthesis via Fine-Grained Image-Text Alignment and Anatomy-Pathology Prompting},
  author = {Chen, Wenting and Wang, Pengyu and Ren, Hui and Sun, Lichao and Li, Quanzheng
    and Yuan, Yixuan and Li, Xiang},
  booktitle = {MICCAI},
  year = {2024},
  note = {arXiv:2403.06835}
}"""
"""The method's paper."""

MISUSES = (
    "Diagnosis, or any other clinical decision.",
    "Measuring how well a model does on patients: that takes real images.",
    "Counting how common a finding is: findings are as frequent here as they were asked for.",
    "Passing the images off as real ones.",
)

_NO_BOUND = 1e38
"""A filter with a greater bound had no held-out images to take one of, or no model to judge with."""


def is_phantom(about: About) -> bool:
    """Whether the models learned from drawings alone; of models that were given, nobody here knows."""
    return bool(about["own_models"] and about["corpus"]["kind"] == "phantom")


def forbids_derivatives(licence: str) -> bool:
    """Whether a licence says no derivatives, by its name."""
    return re.search(r"\bND\b|no.?deriv", licence, re.IGNORECASE) is not None


def origin(about: About) -> str:
    """What the images are and where they come from."""
    corpus = about["corpus"]
    if is_phantom(about):
        source = "procedural phantoms, drawings that only resemble chest radiographs"
    elif about["own_models"]:
        source = f"{corpus['studies']['train']} studies of a corpus of kind {corpus['kind']}"
    else:
        source = "what isn't recorded here: they were given"
    return (
        f"Synthetic: medsynth {about['generator_version']} made every image from a text prompt; none is of a patient. "
        f"The models were trained on {source}."
    )


def uses(about: About) -> list[str]:
    """What the release is meant for."""
    if is_phantom(about):
        return [
            "Trying the pipeline and its readers; not training a clinical model, since the models saw drawings alone."
        ]
    return [
        "More training images for classifiers and text-to-image models of chest radiographs, beside real ones.",
        "Building and testing pipelines before real images are at hand.",
    ]


def limits(about: About) -> list[str]:
    """What a user must not take for granted; the filters that ran, with their bounds."""
    size = about["image_size"]
    return [
        "Labels are what was prompted, not what an observer found: an image may lack its finding or show another.",
        *_filters(about["quality"], about["bounds"]),
        f"Images are {size} x {size} pixels, 8-bit grey, {about['sampling']['view']} views; what is finer is lost.",
    ]


def biases(about: About) -> list[str]:
    """In what the release is known to lean."""
    return [
        "Findings, their places and severities follow the source corpus and the settings of the prompts: what is rare "
        "or missing there is rare or missing here, and terms of too few patients were left out.",
        "Drawings have no age, sex or origin."
        if is_phantom(about)
        else "Age, sex and origin of the patients whom the models learned from are neither recorded nor balanced.",
    ]


def privacy(about: About) -> str:
    """What of a person may be in the release, and what was measured of that."""
    if is_phantom(about):
        return f"No patient's data was used. {_measured(about)}"
    trained = "were" if about["own_models"] else "may have been"
    copies = "were rejected" if "duplicate" in about["quality"]["enabled"] else "were not looked for"
    return (
        f"The models {trained} trained on patients' images and reports. Near-copies of training images {copies}; "
        f"nothing proves that no patient can be recognised. {_measured(about)}"
    )


def licences(about: About) -> list[str]:
    """The licence of the release and that of its source corpus; how they go together isn't decided here."""
    release, corpus = about["release"], about["corpus"]["licence"]
    stated, link = release["license"], release["license_link"]
    if stated == "other":
        stated = "its publisher's own" if link else "not stated yet"
    sentences = [f"Release: {stated}{f' ({link})' if link else ''}.", f"Source corpus: {corpus}."]
    if not about["own_models"]:
        sentences.append("The models were given: the terms of what they were trained on hold too.")
    if forbids_derivatives(corpus):
        sentences.append(
            "The corpus' licence forbids derivatives. Whether images made by models that were trained on it are "
            "derivatives isn't settled, and medsynth can't decide it: ask who holds the rights before you pass them on."
        )
    return sentences


def _measured(about: About) -> str:
    """What the privacy stage found; the most successful attack of each kind."""
    risk = about.get("privacy")  # releases of earlier versions have none
    if risk is None:
        return "What the images give away of the training images was not measured."
    figures: dict[str, Mapping[str, Any]] = {}
    for row in risk["figures"]:
        if row["value"] is None:
            continue
        name = row["metric"].removesuffix("_relative")
        if name not in figures or row["value"] > figures[name]["value"]:
            figures[name] = row
    if not figures:
        return f"What the images give away of the training images was not measured: {risk['figures'][0]['reason']}."
    sentences = {
        "membership_auc": "attacks that tell training images from held-out ones by the released images reach an AUC of "
        "{value:.2f} ({low:.2f} to {high:.2f}; a guess has 0.5)",
        "nearer_than_held_out": "{value:.1%} of the images come nearer to a training image than all but 5 % of real "
        "held-out images do",
        "near_copies": "{value:.1%} of the made images that reached the copy filter were rejected as near-copies of "
        "training images (real held-out images: {real:.1%})",
        "keypatch_leakage": "the surroundings of {value:.1%} of the keypatches are repeated (by chance {real:.1%})",
    }
    said = [text.format(**figures[name]) for name, text in sentences.items() if name in figures]
    return f"Measured on {risk['n_synthetic']} images: {'; '.join(said)}."


def _filters(quality: Mapping[str, Any], bounds: Mapping[str, float]) -> list[str]:
    share = {name.removesuffix("_quantile"): f"{value:.1%}" for name, value in quality.items() if "_quantile" in name}
    sentences = {
        "degenerate": f"Degenerate images were rejected: a standard deviation under {quality['min_contrast']:g} grey "
        f"levels, or more than {bounds['clipped']:.2%} of the pixels black or white, which is more than all but "
        f"{share['clipped']} of real held-out images have.",
        "sharpness": f"Blurred images were rejected: softer than all but {share['sharpness']} of real held-out ones.",
        "noise": f"Noisy images were rejected: noisier than all but {share['noise']} of real held-out images.",
        "anatomy": "Images with unusual anatomy (shifted, inverted, framed, an organ missing) were rejected: farther "
        f"from the usual thumbnail than all but {share['anatomy']} of real held-out images.",
        "organs": "Images whose lungs or heart, as a segmenter finds them, are of unusual size, shape or place were "
        f"rejected: farther from the usual than all but {share['organs']} of real held-out images'; only where the "
        "corpus has masks to learn from.",
        "niqe": "Images with unnatural texture were rejected: a NIQE above that of all but "
        f"{share['niqe']} of real held-out images.",
        "duplicate": "Near-duplicates were rejected: a training image, also brightened, mirrored or cropped by up to "
        f"an eighth of its side, within {bounds['training_copy']:.4f} (share of the deviation left after registering, "
        f"0..1), nearer than all but {share['training_copy']} of real held-out images come to one; or an earlier image "
        f"here within {bounds['copy']:.4f} (mean absolute difference of 16 x 16 thumbnails, 0..1) or "
        f"{bounds['copy_features']:.3f} (features of the labelling judge, standard deviations), nearer than all but "
        f"{share['copy']} of real held-out images come to a training image. Smaller crops and copied details pass.",
        "labels": "Images whose findings or sides a classifier finds otherwise than prompted were rejected: less "
        f"probable than all but {share['labels']} of real held-out images with their own. The classifier learnt "
        "from patients whom no model of the generator has seen.",
        "agreement": f"Images at odds with their prompt were rejected: an agreement under {bounds['agreement']:.2f} "
        f"(-1..1), which all but {share['agreement']} of real held-out pairs reach. The model that judges "
        "it also guided the synthesis, and may share its errors.",
    }
    off = [name for name in sentences if name not in quality["enabled"] or bounds.get(name, 0.0) > _NO_BOUND]
    return [text for name, text in sentences.items() if name not in off] + (
        [f"Filters that did not run: {', '.join(off)}."] if off else []
    )
