import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsynth_core.evaluation.contact_sheet import SheetItem, contact_sheet, key_caption


def item(verdict: str = "accepted", prompt: str = "A clear chest.", words: tuple[str, ...] = ("clear",)) -> SheetItem:
    pixels = np.random.default_rng(0).integers(90, 160, (32, 32), dtype=np.uint8)
    return SheetItem(pixels, prompt, list(range(len(words))), words, 8, verdict)


def drawn(path: Path, items: list[SheetItem]) -> np.ndarray:
    contact_sheet(items, "synthetic", path, columns=2)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def has_colour(pixels: np.ndarray, rgb: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels - rgb).max(axis=2) <= 2).any())


def test_the_same_items_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        contact_sheet([item()], "synthetic", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_rejected_image_wears_another_badge(tmp_path: Path) -> None:
    good, bad = drawn(tmp_path / "a.png", [item()]), drawn(tmp_path / "b.png", [item("duplicate:release")])
    assert has_colour(good, (0x1A, 0x7F, 0x37))
    assert not has_colour(good, (0xB4, 0x23, 0x18))
    assert has_colour(bad, (0xB4, 0x23, 0x18))


def test_the_words_of_the_keypatches_are_seen_below_long_prompts(tmp_path: Path) -> None:
    long = dataclasses.replace(item(prompt="very long " * 90), cells=[])
    pixels = drawn(tmp_path / "a.png", [long] * 3)
    brown = pixels[:, :, 0] - pixels[:, :, 2] > 60
    lines = np.flatnonzero(brown.any(axis=1))
    assert len(lines), "no words"
    assert np.ptp(lines) > 300, "the words of one row only"
    assert (pixels[-10:] == 255).all(), "the last caption runs off the sheet"


@pytest.mark.parametrize("prompt", ["costs $5 and $x_{1$", "größer ≥ 3 cm", "", "<b>&"])
def test_any_prompt_can_be_drawn(tmp_path: Path, prompt: str) -> None:
    assert drawn(tmp_path / "a.png", [item(prompt=prompt, words=())]).size


def test_no_images_is_an_empty_sheet(tmp_path: Path) -> None:
    assert drawn(tmp_path / "a.png", []).size


def test_ranks_are_told_by_word() -> None:
    assert key_caption(["effusion", "left", "effusion"]) == "keypatches: effusion 1 3, left 2"
    assert key_caption([]) == "no keypatches"
