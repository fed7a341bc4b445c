"""The networks that look at the images: CheXGenBench's four, or what stands in their place, never without saying so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsynth_core.config import Paths
from medsynth_core.config.entries import check_entry, file_at
from medsynth_core.config.plugins import Plugins
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.evaluation.image_text import PAIRS
from medsynth_core.evaluation.reidentification import REIDENTIFIERS
from medsynth_core.evaluation.settings import EXTRACTORS
from medsynth_core.hashing import sha256_file

_OF_THE_WORKSPACE = frozenset(["judge", "classifier", "texture"])
NONE = "none"
"""Entry of a network that is left out."""
RAD_DINO, INCEPTION, BIOVIL_T, REID = "rad-dino", "inception", "biovil-t", "reid"


@dataclass(frozen=True)
class Role:
    """A network of the protocol.

    Attributes:
        name: of its option.
        called: in messages.
        kinds: modules that may play it.
        usual: entry that is looked for when none is given; "" where there is no such place.
        hint: how it is given, and where it is to be had.
        stand_in: entry that plays it with ``--stand-ins``.
    """

    name: str
    called: str
    kinds: Plugins
    usual: str
    hint: str
    stand_in: str


_RAD_DINO_NAME = "microsoft/rad-dino"
ROLES = (
    Role(
        RAD_DINO,
        "RAD-DINO",
        EXTRACTORS,
        f"transformers:{_RAD_DINO_NAME}",
        f"--rad-dino transformers:FOLDER, of {_RAD_DINO_NAME}",
        "judge",
    ),
    Role(
        INCEPTION,
        "Inception",
        EXTRACTORS,
        "inception",
        "--inception inception:FILE, pytorch-fid's pt_inception-2015-12-05-6726825d.pth",
        "texture",
    ),
    Role(BIOVIL_T, "BioViL-T", PAIRS, "", "--biovil-t biovil-t:FOLDER, of microsoft/BiomedVLP-BioViL-T", "alignment"),
    Role(
        REID,
        "re-identification",
        REIDENTIFIERS,
        "",
        "--reid siamese:FILE, ResNet-50_epoch11_data_handling_RPN.pth of raman07/Patient_ReIdentification_MIMIC",
        "judge",
    ),
)


@dataclass(frozen=True)
class Cast:
    """Who plays which role.

    Attributes:
        entries: by role; roles that are left out have none.
        own: roles that the protocol's own network plays, as far as its files tell.
        missing: how the networks that aren't there are called, and how they are given.
    """

    entries: Mapping[str, str]
    own: frozenset[str]
    missing: tuple[str, ...]

    def heading(self, column: str, role: str) -> str:
        """Returns what a column of the board's is called here: its own name where the protocol's network fills it,
        else with what stands in its place, ``FID (judge for RAD-DINO)`` for ``FID (RadDino)``."""
        if role in self.own or role not in self.entries:
            return column
        return f"{column.partition(' (')[0]} ({short(self.entries[role])} for {called(role)})"

    @property
    def stand_ins(self) -> dict[str, str]:
        """Entries of others by the role that they play."""
        return {role: entry for role, entry in self.entries.items() if role not in self.own}


def called(role: str) -> str:
    """Returns what the protocol's network of a role is called."""
    return next(each.called for each in ROLES if each.name == role)


def short(entry: str) -> str:
    """Returns an entry without the folders of its place."""
    kind, colon, place = entry.partition(":")
    return f"{kind}{colon}{'+'.join(Path(part).name for part in place.split('+'))}"


def cast(given: Mapping[str, str | None], stand_ins: bool, paths: Paths) -> Cast:
    """Returns who plays which role, having checked that they can.

    Args:
        given: entry by role; ``none`` leaves it out, None asks for the protocol's.
        stand_ins: play what is neither given nor there by ``Role.stand_in``.

    Raises:
        ConfigError: an entry names no module, or has a place too many or too few.
        InputError: weights are missing: all of them in one line; or what is given can't be opened.
    """
    entries, missing = dict[str, str](), list[str]()
    for role in ROLES:
        entry = given.get(role.name) or ""
        if entry == NONE:
            continue
        if entry:
            _check(role, entry, paths)
        elif _is_there(role, paths):
            entry = role.usual
        else:
            missing.append(f"{role.called} ({role.hint})")
            entry = role.stand_in
        entries[role.name] = entry
    if missing and not stand_ins:
        raise InputError(
            f"weights of the protocol are missing: {'; '.join(missing)}. Give them, leave a part out by 'none', or "
            f"use --stand-ins, whose figures compare with nobody's"
        )
    own = frozenset(name for name, entry in entries.items() if _is_own(name, entry, paths))
    return Cast(entries, own, tuple(missing))


def own_side(entry: str, paths: Paths) -> int | None:
    """Returns the side of the images that a network of the workspace learnt from, in which it is given them; None of
    others, which are given what the protocol says."""
    if entry.partition(":")[0] not in _OF_THE_WORKSPACE:
        return None
    from medsynth_core.evaluation.networks import trained_side

    return trained_side(paths)


def described(playing: Cast, paths: Paths) -> dict[str, dict[str, Any]]:
    """Returns of each role its entry, whether the protocol's network plays it, and SHA-256 of its files on disk."""
    return {
        role: {"entry": entry, "protocol": role in playing.own, "sha256": _digests(entry, paths)}
        for role, entry in playing.entries.items()
    }


def _check(role: Role, entry: str, paths: Paths) -> None:
    try:
        role.kinds.checked(entry.partition(":")[0])
    except ValueError as error:
        raise ConfigError(f"--{role.name} {entry!r}: {error}") from None
    check_entry(role.kinds, entry, paths)


def _is_there(role: Role, paths: Paths) -> bool:
    """Returns whether the usual place has the network; nothing is fetched."""
    if role.name == RAD_DINO:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(_RAD_DINO_NAME, "config.json"), str)
    if not role.usual:
        return False
    try:
        check_entry(role.kinds, role.usual, paths)
    except InputError:
        return False
    return True


def _is_own(role: str, entry: str, paths: Paths) -> bool:
    """Returns whether an entry is the protocol's network, as far as can be told.

    RAD-DINO by its name, or by its kind and size, a DINOv2 of 12 layers and 768 features; BioViL-T by the published MD5
    of its image model; Inception and the Siamese network by shapes alone, which are checked when they are opened.
    """
    kind, _, place = entry.partition(":")
    if role == RAD_DINO:
        return kind == "transformers" and (place == _RAD_DINO_NAME or _is_dinov2_base(Path(place)))
    if role == BIOVIL_T and kind == "biovil-t":
        from medsynth_core.evaluation.image_text.biovil_t import IMAGE_WEIGHTS, IMAGE_WEIGHTS_MD5

        with (file_at(place, paths) / IMAGE_WEIGHTS).open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest() == IMAGE_WEIGHTS_MD5
    return (role, kind) in {(INCEPTION, "inception"), (REID, "siamese")}


def _is_dinov2_base(folder: Path) -> bool:
    try:
        about = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    wanted = {"model_type": "dinov2", "hidden_size": 768, "num_hidden_layers": 12}
    return all(about.get(key) == value for key, value in wanted.items())


def _digests(entry: str, paths: Paths) -> dict[str, str]:
    """Returns SHA-256 by name of the weights that an entry names."""
    place = entry.partition(":")[2]
    files = list[Path]()
    for part in place.split("+") if place else ():
        path = file_at(part, paths)
        files += [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    weights = [path for path in files if path.suffix in {".safetensors", ".bin", ".pt", ".pth"}]
    return {path.name: sha256_file(path) for path in weights}
