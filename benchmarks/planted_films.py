"""Faults to plant among real films: blank films, bars, near-copies, photographs and drawn laterals.

Photographs are those that scikit-image, scikit-learn and matplotlib bring, other ones than thresholds were chosen on.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import skimage
import sklearn
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects.borders import Borders
from medsynth_core.corpus.suspects.looks import Field

SIDE = 256
"""Height and width of a film."""
_SKIMAGE = Path(skimage.__file__).parent / "data"
_PHOTOGRAPHS = (
    *(_SKIMAGE / f"{name}.png" for name in ("camera", "cell", "chelsea", "clock_motion", "grass", "horse")),
    *(_SKIMAGE / name for name in ("hubble_deep_field.jpg", "moon.png", "motorcycle_left.png")),
    *(_SKIMAGE / name for name in ("retina.jpg", "rocket.jpg", "text.png", "logo.png")),
    Path(sklearn.__file__).parent / "datasets/images/flower.jpg",
    Path(mpl.get_data_path()) / "sample_data/grace_hopper.jpg",
)
_FACES = slice(50, 100)
"""Of the images of lfw_subset.npy, half of which show faces."""


def resized(image: ImageU8, side: int = SIDE) -> ImageU8:
    """Returns an image of any size as uint8 [side, side]."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def blank(film: ImageU8, draw: np.random.Generator) -> ImageU8:
    """Returns a flat, smooth or over- or underexposed film, or one that is hardly there."""
    way = draw.integers(5)
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    if way == 0:
        field = np.full((SIDE, SIDE), draw.uniform(0, 255)) + draw.normal(0, draw.uniform(0, 6), (SIDE, SIDE))
    elif way == 1:
        field = draw.uniform(0, 215) + draw.uniform(5, 40) * (y * draw.normal() + x * draw.normal())
        field += draw.normal(0, draw.uniform(0, 4), (SIDE, SIDE))
    elif way == 2:
        field = film.astype(float) + 255 - np.quantile(film, draw.uniform(0.01, 0.06))
    elif way == 3:
        field = film.astype(float) - np.quantile(film, draw.uniform(0.96, 0.995))
    else:
        field = draw.uniform(20, 230) + (film.astype(float) - film.mean()) * draw.uniform(0, 0.03)
        field += draw.normal(0, draw.uniform(0, 2), (SIDE, SIDE))
    return np.rint(field.clip(0, 255)).astype(np.uint8)


def letterboxed(film: ImageU8, draw: np.random.Generator) -> tuple[ImageU8, Borders]:
    """Returns the film between black or white bars, JPEG-coded, and how wide they are."""
    level = int(draw.choice([0, 0, int(draw.integers(1, 12)), 255, 255 - int(draw.integers(1, 8))]))
    way = draw.integers(4)
    widths = draw.integers(10, 60, 4)
    if way == 0:
        widths[2:] = 0
    elif way == 1:
        widths[:2] = 0
    elif way == 2:
        widths[draw.permutation(4)[:3]] = 0
    bars = Borders(*widths.tolist())
    image = np.pad(film, ((bars.top, bars.bottom), (bars.left, bars.right)), constant_values=level)
    return _jpeg(image, int(draw.integers(60, 96))), bars


def near_copy(film: ImageU8, draw: np.random.Generator) -> ImageU8:
    """Returns the film cropped a little, resized, with another brightness and contrast, JPEG-coded."""
    top, bottom, left, right = draw.integers(0, 13, 4) if draw.random() < 0.7 else (0, 0, 0, 0)
    image = resized(film[top : SIDE - bottom, left : SIDE - right], int(draw.integers(150, 400)))
    field = np.power(image / 255.0, draw.uniform(0.75, 1.33)) * draw.uniform(0.8, 1.15) + draw.uniform(-0.08, 0.08)
    return resized(_jpeg(np.rint(255 * field.clip(0, 1)).astype(np.uint8), int(draw.integers(50, 96))))


def _jpeg(image: ImageU8, quality: int) -> ImageU8:
    """Returns the image after a JPEG round trip."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("L"))


def photograph(draw: np.random.Generator) -> ImageU8:
    """Returns a random crop of a photograph, a face or, one in four times, a drawn document, hand or abdomen."""
    way = draw.random()
    if way < 0.25:
        return (_document, _hand, _abdomen)[draw.integers(3)](draw)
    if way < 0.35:
        faces = np.load(_SKIMAGE / "lfw_subset.npy")[_FACES]
        return resized(np.rint(255 * faces[draw.integers(len(faces))].clip(0, 1)).astype(np.uint8))
    image = np.asarray(Image.open(_PHOTOGRAPHS[draw.integers(len(_PHOTOGRAPHS))]).convert("L"))
    side = int(min(image.shape) * draw.uniform(0.5, 1.0))
    top, left = (draw.integers(0, length - side + 1) for length in image.shape)
    return resized(image[top : top + side, left : left + side])


def _document(draw: np.random.Generator) -> ImageU8:
    page = Image.new("L", (SIDE, SIDE), int(draw.integers(215, 256)))
    pen = ImageDraw.Draw(page)
    y, margin = int(draw.integers(8, 40)), int(draw.integers(8, 40))
    while y < SIDE - 16:
        words = "".join(draw.choice(list("aeinorstlu   "), 40))
        pen.text((margin, y), words[: draw.integers(8, 36)], fill=int(draw.integers(0, 80)))
        y += int(draw.integers(11, 24))
    return np.asarray(page)


def _hand(draw: np.random.Generator) -> ImageU8:
    bones, flesh = [], [(0.5, 0.95, 0.5, 0.7, 0.17)]
    for finger in range(5):
        angle = np.deg2rad(-35 + 17 * finger + draw.normal(0, 3))
        x, y = 0.36 + 0.07 * finger, 0.68
        for length in (0.17, 0.14, 0.09, 0.07):
            tip_x, tip_y = x + np.sin(angle) * length, y - np.cos(angle) * length
            bones.append((x, y, tip_x, tip_y + 0.012, 0.02))
            flesh.append((x, y, tip_x, tip_y, 0.045))
            x, y = tip_x, tip_y
    bones += [(0.42, 0.98, 0.43, 0.76, 0.04), (0.56, 0.98, 0.55, 0.76, 0.035)]
    return _film(0.8 * _rods(flesh).clip(0, 1) + _rods(bones), draw)


def _rods(rods: Sequence[tuple[float, float, float, float, float]]) -> Field:
    """Returns the thickness of round rods, each from x and y to x and y, and its radius, in shares of the side."""
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    field = np.zeros((SIDE, SIDE))
    for x0, y0, x1, y1, radius in rods:
        share = (((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)).clip(0, 1)
        away = np.hypot(x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0))
        field += np.sqrt((1 - (away / radius) ** 2).clip(0, 1))
    return field


def _abdomen(draw: np.random.Generator) -> ImageU8:
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    field = 0.6 * np.sqrt((1 - (x / draw.uniform(0.95, 1.2)) ** 2).clip(0, 1))
    field += 0.3 * (np.abs(x) < 0.1) * (1 + 0.3 * np.cos(y * 30))
    field += 0.3 * (y > 0.5) * np.exp(-(((np.abs(x) - 0.55) / 0.2) ** 2))
    for _ in range(draw.integers(4, 14)):
        cx, cy, radius = draw.uniform(-0.7, 0.7), draw.uniform(-0.8, 0.8), draw.uniform(0.05, 0.2)
        field -= 0.2 * np.sqrt((1 - ((x - cx) ** 2 + (y - cy) ** 2) / radius**2).clip(0, 1))
    return _film(gaussian_filter(field, 2), draw)


def lateral(draw: np.random.Generator, film: ImageU8 | None = None) -> ImageU8:
    """Returns a drawn lateral film, facing either way.

    Args:
        film: a frontal film to take the grain and fine texture from, uint8 [256, 256]; None leaves a smooth drawing.
    """
    field = _chest_from_the_side(draw)
    if film is not None:
        grain = np.rot90(film - gaussian_filter(film.astype(float), 4), int(draw.integers(4)))
        field = field / np.ptp(field) + draw.uniform(0.6, 1.4) * grain / 255
        if draw.random() < 0.4:
            field = field - draw.uniform(0.3, 0.7) * gaussian_filter(field, 40)
    image = _film(field, draw)
    return image if draw.random() < 0.5 else np.ascontiguousarray(image[:, ::-1])


def _chest_from_the_side(draw: np.random.Generator) -> Field:
    """Returns line integrals of ellipsoids, the front to the left."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]

    def some(spread: float) -> float:
        return float(draw.normal(0, spread))

    def ellipsoid(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> Field:
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        return np.sqrt((1 - (u / rx) ** 2 - (v / ry) ** 2).clip(0, 1))

    zoom, tilt = draw.uniform(0.85, 1.15), some(0.06)
    x, y = x * zoom + tilt * y + some(0.05), y * zoom + some(0.05)
    trunk, neck = ellipsoid(0, 0.25, 0.78 + some(0.05), 1.6), ellipsoid(0.2, -1.0, 0.5, 0.5)
    lung = ellipsoid(some(0.03), 0.0, 0.52 + some(0.03), 0.78, 0.12 + some(0.04))
    dome = 0.42 + some(0.06) + 0.35 * (x - 0.05) ** 2 + 0.25 * (x - 0.05)
    lung = np.maximum(lung, ellipsoid(0.25, 0.2, 0.4, 0.66)) * (0.5 + 0.5 * np.tanh(25 * (dome - y)))
    field = 0.9 * trunk + 0.25 * neck - (0.62 + some(0.05)) * lung
    heart = ellipsoid(-0.2 + some(0.04), 0.22, 0.34 + some(0.03), 0.28 + some(0.03), 0.6)
    field += 0.42 * heart * (y < dome + 0.1) + 0.2 * ellipsoid(-0.02, -0.35, 0.13, 0.35)
    spine = 0.5 + 0.12 * np.sin(2.2 * y + 0.5) + some(0.02)
    vertebrae = 0.28 + 0.1 * np.cos(y * draw.uniform(26, 34))
    field += vertebrae * np.exp(-(((x - spine) / 0.11) ** 4)) * (0.6 + 0.4 * y)
    sternum = np.exp(-(((x + 0.62 - 0.15 * y) / 0.04) ** 2)) * (np.abs(y + 0.1) < 0.45)
    ribs = np.cos(draw.uniform(22, 30) * (y - 0.7 * (x - 0.1) + 0.5 * x**2)).clip(0, None) * (lung > 0)
    arms = ellipsoid(-0.3, -1.0, 0.35, 0.25, 0.5) + ellipsoid(0.45, -0.95, 0.4, 0.2, -0.4)
    field += 0.22 * sternum + 0.06 * ribs + draw.uniform(0, 0.5) * arms
    return gaussian_filter(field, draw.uniform(0.8, 3))


def _film(field: Field, draw: np.random.Generator) -> ImageU8:
    """Returns a field with noise, its greys stretched over 0..255."""
    field = field + draw.normal(0, 0.01, field.shape)
    low, high = np.quantile(field, [0.005, 0.995])
    return np.rint(255 * ((field - low) / (high - low + 1e-6)).clip(0, 1) ** draw.uniform(0.7, 1.4)).astype(np.uint8)
