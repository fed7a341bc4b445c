"""The synthesiser: the trained models behind one verb, prompts in and images out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from medsynth_core.config import Config, Paths
from medsynth_core.errors import InputError
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import models_folder, pick_device, pick_dtype
from medsynth_core.models.codebook import Keypatch, VisualCodebook
from medsynth_core.models.llm import ImageLanguageModel
from medsynth_core.models.pixels import to_images, to_inputs
from medsynth_core.models.segmenter import OrganSegmenter
from medsynth_core.models.text import condition_text
from medsynth_core.models.vqgan import VQGAN
from medsynth_core.quality.embedding import Embedding
from medsynth_core.quality.filters import Features, Images
from medsynth_core.quality.organs import organ_cells
from medsynth_core.synthesis.engine import Engine
from medsynth_core.synthesis.identity import uniforms
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.synthesis.memory import is_out_of_memory
from medsynth_core.synthesis.packed import pack

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")

_PIXELS_AT_ONCE = {True: 2**21, False: 2**16}
"""Rendered at once, by whether it is on a GPU: so few on a CPU that activations stay in its caches, a third of the time
of a whole batch at 256 x 256; on a GPU what bounds their memory."""


@dataclass(frozen=True)
class Batch:
    """Images that are decoded together.

    Attributes:
        places: where each stands among what was asked for.
        codes: int64 [B, side, side] on the device.
    """

    places: list[int]
    codes_Bhw: Tensor


class Synthesiser:
    """Loaded models on one device. Any number of threads may ask; one at a time decodes.

    Attributes:
        map: as the builtin; beside a GPU by several threads.
    """

    def __init__(
        self,
        config: Config,
        vqgan: VQGAN,
        alignment: AlignmentModel,
        codebook: VisualCodebook,
        llm: ImageLanguageModel,
    ) -> None:
        self.config = config
        self.vqgan = vqgan.to(memory_format=torch.channels_last)
        self.alignment = alignment.to(memory_format=torch.channels_last)
        self.codebook = codebook
        self.llm = llm
        pack(llm)
        self.engine = Engine(llm, capture=llm.device.type == "cuda")
        # One thread decodes for all shards in flight: a second would share its cores or its GPU, and would have to
        # capture the same graphs again.
        self._decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        # What follows decoding doesn't wait behind the next batch's tokens, and beside a GPU the cores are free for it.
        cuda = llm.device.type == "cuda"
        self._beside = torch.cuda.Stream() if cuda else None
        judges = ThreadPoolExecutor(max(1, torch.get_num_threads() // 2), thread_name_prefix="judge") if cuda else None
        self.map = judges.map if judges is not None else map
        self._most_images: int | None = config.synthesis.batch_size
        side = alignment.side * vqgan.config.downsampling
        rendered = max(1, _PIXELS_AT_ONCE[cuda] // side**2)
        self._at_once = {"rendered": rendered, "judged": 16 * rendered}

    @classmethod
    def load(cls, config: Config, paths: Paths) -> Synthesiser:
        """Returns the synthesiser of a workspace.

        Raises:
            InputError: a model is missing, or the three don't belong together.
        """
        folder = models_folder(config, paths)
        device = pick_device(config.device)
        vqgan = VQGAN.load(folder / "vqgan").to(device)
        alignment = AlignmentModel.load(folder / "alignment").to(device)
        codebook = VisualCodebook.load(folder / "alignment" / "codebook")
        llm = ImageLanguageModel.load(folder / "llm").cast(pick_dtype(config.synthesis.precision, device)).to(device)
        if llm.layout.codes != vqgan.config.codes or llm.layout.cells != alignment.side**2:
            raise InputError(
                f"{folder}: the llm was trained for {llm.layout.codes} codes and {llm.layout.cells} cells, but the "
                f"VQ-GAN has {vqgan.config.codes} codes and the alignment {alignment.side**2} cells; retrain the llm"
            )
        return cls(config, vqgan, alignment, codebook, llm)

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
            self.llm.prefix(condition_text(self.llm.config.condition, p.text, p.findings), p.view, k)
            for p, k in zip(prompts, keypatches, strict=True)
        ]
        bare = {view: self.llm.empty_prefix(view) for view in {prompt.view for prompt in prompts}}
        waiting = sorted(range(len(prompts)), key=lambda place: (len(prefixes[place].ids), prefixes[place].ids))
        longest = max(len(prefix.ids) for prefix in prefixes)

        def decode() -> Batch | None:
            while waiting:
                places = waiting[: self._batch_size(len(waiting), longest)]
                try:
                    codes_BT = self.engine.decode(
                        [prefixes[place] for place in places],
                        [bare[prompts[place].view] for place in places],
                        torch.from_numpy(uniforms([image_ids[place] for place in places], self.llm.layout.cells)),
                        self.config.synthesis,
                    )
                    if codes_BT.is_cuda:
                        done = torch.cuda.Event(blocking=True)  # waits without a core of its own
                        done.record()
                        done.synchronize()
                    del waiting[: len(places)]
                    return Batch(places, codes_BT.view(len(places), self.alignment.side, -1))
                except RuntimeError as error:
                    if len(places) == 1 or not is_out_of_memory(error):
                        raise
                # Only now is the error, and with it what its frames held, gone.
                self.engine.release()
                self._most_images = _half(len(places), "decoded")
            return None

        coming = self._decoder.submit(decode)
        while (batch := coming.result()) is not None:
            coming = self._decoder.submit(decode)
            yield batch

    def _batch_size(self, waiting: int, prefix_tokens: int) -> int:
        """Returns images of the next batch: the rest in equal parts, prompts whole where they can be."""
        settings = self.config.synthesis
        if self._most_images is None:
            self._most_images = self.engine.images_that_fit(prefix_tokens, settings)
            log.info("memory holds %d images a batch", self._most_images)
        size = -(-waiting // -(-waiting // self._most_images))
        prompts = -(-size // settings.samples_per_prompt) * settings.samples_per_prompt
        return prompts if prompts <= self._most_images else size

    def render(self, batch: Batch) -> Images:
        """Returns the images of a batch, uint8 [B, H, W]."""
        codes_Bhw = batch.codes_Bhw
        parts = self._in_parts(
            "rendered", len(codes_Bhw), lambda part: to_images(self.vqgan.decode_codes(codes_Bhw[part]))
        )
        return np.concatenate(parts)

    def agreement(self, images_u8: Images, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns prompt-image agreement, float32 [N] in [-1, 1]."""

        def score(part: slice) -> npt.NDArray[np.float32]:
            pixels = to_inputs(images_u8[part], self.alignment.device)
            scores: npt.NDArray[np.float32] = self.alignment.agreement(pixels, texts[part]).cpu().numpy()
            return scores

        return np.concatenate(self._in_parts("judged", len(texts), score))

    def look(self, embedding: Embedding, images_u8: Images) -> tuple[npt.NDArray[np.float32], Features]:
        """Returns the labelling judge's logits, float32 [N, L], and what it sees, float16 [N, F]."""
        seen = self._in_parts("judged", len(images_u8), lambda part: embedding.see(images_u8[part]))
        logits, features = zip(*seen, strict=True)
        return np.concatenate(logits), np.concatenate(features).astype(np.float16)

    def organs(self, segmenter: OrganSegmenter, images_u8: Images) -> npt.NDArray[np.int64]:
        """Returns the organ in each cell, int64 [N, G, G]."""
        return np.concatenate(
            self._in_parts("judged", len(images_u8), lambda part: organ_cells(segmenter, images_u8[part]))
        )

    def _in_parts(self, done: str, images: int, call: Callable[[slice], _Found]) -> list[_Found]:
        """Returns what ``call`` finds in each part of so many images; when a GPU's memory doesn't suffice, parts are
        halved from there on."""
        found: list[_Found] = []
        start = 0
        with torch.cuda.stream(self._beside):
            while start < images:
                stop = min(start + self._at_once[done], images)
                try:
                    found.append(call(slice(start, stop)))
                    start = stop
                    continue
                except RuntimeError as error:
                    if stop - start == 1 or not is_out_of_memory(error):
                        raise
                self._at_once[done] = _half(stop - start, done)
        return found


def _half(images: int, done: str) -> int:
    """Makes room where memory lacked for ``images`` at once; returns how many to try next."""
    log.warning("out of memory for %d images %s at once; %d from here on", images, done, images // 2)
    clear_device_cache(garbage_collection=True)
    return images // 2
