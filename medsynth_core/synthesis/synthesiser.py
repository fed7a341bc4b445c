"""The synthesiser: the trained models behind one verb, prompts in and images out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import pick_device, pick_dtype
from medsynth_core.models.codebook import Keypatch, VisualCodebook
from medsynth_core.models.in_parts import InParts, half
from medsynth_core.models.llm import ImageLanguageModel
from medsynth_core.models.memory import is_out_of_memory
from medsynth_core.models.pixels import to_images
from medsynth_core.models.tokenizers import ImageTokenizer, load_image_tokenizer
from medsynth_core.synthesis.engine import Engine
from medsynth_core.synthesis.identity import uniforms
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.synthesis.packed import pack
from medsynth_core.synthesis.settings import SynthesisConfig, SynthesisParams

log = logging.getLogger(__name__)

Images = npt.NDArray[np.uint8]
"""uint8 [N, H, W]."""
_PIXELS_AT_ONCE = {True: 2**21, False: 2**16}
"""Rendered at once, by whether it is on a GPU: so few on a CPU that activations stay in its caches, a third of the time
of a whole batch at 256 x 256; on a GPU what bounds their memory."""


@dataclass(frozen=True)
class Batch:
    """Images that are decoded together.

    Attributes:
        places: where each stands among what was asked for.
        codes: int64 [B, T] on the device.
    """

    places: list[int]
    codes_BT: Tensor


class Synthesiser:
    """Loaded models on one device. Any number of threads may ask; one at a time decodes."""

    def __init__(
        self,
        settings: SynthesisConfig,
        image_tokenizer: ImageTokenizer,
        alignment: AlignmentModel,
        codebook: VisualCodebook,
        llm: ImageLanguageModel,
    ) -> None:
        self.settings = settings
        self.image_tokenizer = image_tokenizer.to(memory_format=torch.channels_last)
        self.alignment = alignment.to(memory_format=torch.channels_last)
        self.codebook = codebook
        self.llm = llm
        pack(llm)
        self.engine = Engine(llm, capture=llm.device.type == "cuda")
        # One thread decodes for all shards in flight: a second would share its cores or its GPU, and would have to
        # capture the same graphs again.
        self._decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._most_images: int | None = settings.batch_size
        cuda = llm.device.type == "cuda"
        # Rendering doesn't wait behind the next batch's tokens.
        at_once = max(1, _PIXELS_AT_ONCE[cuda] // self.image_size**2)
        self._in_parts = InParts("rendered", at_once, torch.cuda.Stream() if cuda else None)

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""
        return self.alignment.side * self.image_tokenizer.downsampling

    @classmethod
    def load(cls, params: SynthesisParams, paths: Paths) -> Synthesiser:
        """Returns the synthesiser of a workspace.

        Raises:
            InputError: a model is missing, or the three don't belong together.
        """
        device = pick_device(params.device)
        image_tokenizer = load_image_tokenizer(paths["vqgan"]).to(device)
        alignment = AlignmentModel.load(paths["alignment"]).to(device)
        codebook = VisualCodebook.load(paths["alignment"] / "codebook")
        llm = ImageLanguageModel.load(paths["llm"]).cast(pick_dtype(params.synthesis.precision, device)).to(device)
        layout = llm.layout
        wanted = (alignment.side**2, image_tokenizer.codes, image_tokenizer.levels)
        if (layout.cells, layout.codes, layout.levels) != wanted:
            raise InputError(
                f"{paths['llm']}: the llm was trained for {layout.codes} codes in {layout.levels} levels and "
                f"{layout.cells} cells, but the image tokenizer has {wanted[1]} codes in {wanted[2]} levels and the "
                f"alignment {wanted[0]} cells; retrain the llm"
            )
        if llm.config.distil.steps and params.synthesis.guidance > 1:
            log.warning(
                "%s: the llm has learnt guidance %g already (models.llm.distil); with synthesis.guidance=%g too, "
                "images are guided twice: set it to 1",
                paths["llm"],
                llm.config.distil.guidance,
                params.synthesis.guidance,
            )
        return cls(params.synthesis, image_tokenizer, alignment, codebook, llm)

    def keypatches(self, prompts: Sequence[PromptRow]) -> list[list[Keypatch]]:
        """Returns the keypatches of each prompt, best first."""
        settings = self.llm.config
        queries = [p.query for p in prompts]
        if settings.keypatch_choice == "random":
            return self.codebook.random_keypatches(queries, settings.keypatches)
        return self.codebook.keypatches(self.alignment, queries, settings.keypatches)

    def images(
        self, image_ids: Sequence[str], prompts: Sequence[PromptRow], keypatches: Sequence[Sequence[Keypatch]]
    ) -> Images:
        """Returns one image a prompt, uint8 [N, H, W]; image i depends on image_ids[i] and prompt i alone, up to
        floating-point rounding between batch shapes."""
        done: dict[int, Images] = {}
        for batch in self.batches(image_ids, prompts, keypatches):
            done.update(zip(batch.places, self.render(batch), strict=True))
        return np.stack([done[place] for place in range(len(prompts))])

    def batches(
        self, image_ids: Sequence[str], prompts: Sequence[PromptRow], keypatches: Sequence[Sequence[Keypatch]]
    ) -> Iterator[Batch]:
        """Yields decoded batches; while one is used, the next is being decoded, and no more than that.

        Prompts of like length come together, the images of a prompt beside each other. When a GPU's memory doesn't
        suffice, batches are halved from there on.
        """
        prefixes = [
            self.llm.prefix(p.condition, p.condition.text(self.llm.config.condition, p.text), k)
            for p, k in zip(prompts, keypatches, strict=True)
        ]
        against = [prompt.condition.unconditional() for prompt in prompts]
        bare = {condition: self.llm.empty_prefix(condition) for condition in set(against)}
        waiting = sorted(range(len(prompts)), key=lambda place: (len(prefixes[place].ids), prefixes[place].ids))
        longest = max(len(prefix.ids) for prefix in prefixes)

        def decode() -> Batch | None:
            while waiting:
                places = waiting[: self._batch_size(len(waiting), longest)]
                try:
                    codes_BT = self.engine.decode(
                        [prefixes[place] for place in places],
                        [bare[against[place]] for place in places],
                        torch.from_numpy(uniforms([image_ids[place] for place in places], self.llm.layout.tokens)),
                        self.settings,
                    )
                    if codes_BT.is_cuda:
                        done = torch.cuda.Event(blocking=True)  # waits without a core of its own
                        done.record()
                        done.synchronize()
                    del waiting[: len(places)]
                    return Batch(places, codes_BT)
                except RuntimeError as error:
                    if len(places) == 1 or not is_out_of_memory(error):
                        raise
                # Only now is the error, and with it what its frames held, gone.
                self.engine.release()
                self._most_images = half(len(places), "decoded")
            return None

        coming = self._decoder.submit(decode)
        while (batch := coming.result()) is not None:
            coming = self._decoder.submit(decode)
            yield batch

    def _batch_size(self, waiting: int, prefix_tokens: int) -> int:
        """Returns images of the next batch: the rest in equal parts, prompts whole where they can be."""
        settings = self.settings
        if self._most_images is None:
            self._most_images = self.engine.images_that_fit(prefix_tokens, settings)
            log.info("memory holds %d images a batch", self._most_images)
        size = -(-waiting // -(-waiting // self._most_images))
        prompts = -(-size // settings.samples_per_prompt) * settings.samples_per_prompt
        return prompts if prompts <= self._most_images else size

    def render(self, batch: Batch) -> Images:
        """Returns the images of a batch, uint8 [B, H, W]."""
        codes_BT = batch.codes_BT
        parts = self._in_parts(len(codes_BT), lambda part: to_images(self.image_tokenizer.decode(codes_BT[part])))
        return np.concatenate(parts)
