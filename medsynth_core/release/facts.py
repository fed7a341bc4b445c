"""What the card and croissant.json both say of a release, as sentences read off its ``release.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medsynth_core.filters import FILTERS
from medsynth_core.filters.spec import NO_LIMIT

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
    guarded = any(each.training_copies and each.name in about["quality"]["enabled"] for each in FILTERS)
    copies = "were rejected" if guarded else "were not looked for"
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
        "verification_auc": "one of the attackers tells films of one real patient from films of two with an AUC of "
        "{value:.2f} ({low:.2f} to {high:.2f})",
        "likelihood_auc": "who also had the models could tell training images with an AUC of {value:.2f} ({low:.2f} to "
        "{high:.2f}), which concerns sharing the models, not the images",
    }
    said = [text.format(**figures[name]) for name, text in sentences.items() if name in figures]
    return f"Measured on {risk['n_synthetic']} images: {'; '.join(said)}."


def _filters(quality: Mapping[str, Any], bounds: Mapping[str, float]) -> list[str]:
    """What each filter says of itself, then which didn't run or had nothing to judge by."""
    judged = [each for each in FILTERS if each.name in quality["enabled"] and bounds.get(each.name, 0.0) < NO_LIMIT]
    off = [each.name for each in FILTERS if each not in judged]
    return [each.card(quality[each.name], bounds) for each in judged] + (
        [f"Filters that did not run: {', '.join(off)}."] if off else []
    )
