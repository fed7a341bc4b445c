"""What a user asks of the benchmark: which images, which real ones, which networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medsynth_core.errors import ConfigError
from medsynth_core.evaluation.chexgenbench.protocol import PRIVACY_PROMPTS


@dataclass(frozen=True)
class Request:
    """Places and networks; what is None is found in the workspace, or left out where it can't be.

    Attributes:
        prompts: the benchmark's annotations of its test split.
        images: table or folder of images made of ``prompts``; ``image_dir``: where a table's images are.
        make: folder in which the workspace's models make images of ``prompts``, and of ``train``'s.
        release, rev: the release that is measured, where neither ``images`` nor ``make`` is given.
        real: annotations of the real images; None: ``prompts``, where it names films, else the held-out split.
        train: annotations of training images.
        privacy_images: table of images made of ``train``'s prompts, ten of each.
        networks: entry by role, see ``networks.ROLES``.
        max_prompts: so many prompts at most, chosen at random.
        privacy_prompts: so many training prompts at most.
        name: of the generator, in the tables.
    """

    prompts: Path | None = None
    images: Path | None = None
    image_dir: Path | None = None
    make: Path | None = None
    release: str | None = None
    rev: str | None = None
    real: Path | None = None
    real_dir: Path | None = None
    train: Path | None = None
    train_dir: Path | None = None
    privacy_images: Path | None = None
    networks: Mapping[str, str | None] = field(default_factory=dict)
    max_prompts: int | None = None
    privacy_prompts: int = PRIVACY_PROMPTS
    name: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError where what is asked for contradicts itself."""
        if self.images is not None and self.make is not None:
            raise ConfigError("--images and --make: name images that are there, or have them made, not both")
        theirs = self.images is not None or self.make is not None
        if theirs and self.prompts is None:
            raise ConfigError("--images and --make need --prompts, the annotations of the prompts (a CSV)")
        if theirs and (self.release is not None or self.rev is not None):
            raise ConfigError("--release measures a release with its own prompts; leave out --images and --make")
        if self.prompts is not None and not theirs:
            raise ConfigError("--prompts needs images made of them: name them by --images, or have them made by --make")
        if self.max_prompts is not None and self.prompts is None:
            raise ConfigError("--max-prompts needs --prompts; of a release, evaluation.max_images images are measured")
        if self.privacy_images is not None and (self.train is None or self.images is None):
            raise ConfigError("--privacy-images needs --images, and --train, whose prompts they were made of")
        if self.image_dir is not None and self.images is None:
            raise ConfigError("--image-dir needs --images, the table whose images are there")
