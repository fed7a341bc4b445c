"""Made images that no frontal film looks like, which a film is told from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates

from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects.looks import SIDE, Field


def made_images(thumbnails: ImageU8, number: int, draw: np.random.Generator) -> ImageU8:
    """Returns images that are no frontal films, made from uint8 [N, 64, 64] or drawn, uint8 [number, 64, 64]."""
    images = np.empty((number, SIDE, SIDE), dtype=np.uint8)
    for index in range(number):
        film = thumbnails[draw.integers(len(thumbnails))].astype(np.float32)
        if draw.random() < 0.5:
            film = film[:, ::-1]
        images[index] = np.rint(_MAKERS[index % len(_MAKERS)](film, draw).clip(0, 255))
    return images


def _shuffled(film: Field, draw: np.random.Generator) -> Field:
    """Its squares in another order."""
    count = int(draw.choice([2, 4]))
    side = SIDE // count
    squares = film.reshape(count, side, count, side).swapaxes(1, 2).reshape(-1, side, side)
    squares = np.roll(squares[draw.permutation(len(squares))], 1, 0) if draw.random() < 0.5 else np.roll(squares, 1, 0)
    return squares.reshape(count, count, side, side).swapaxes(1, 2).reshape(SIDE, SIDE)


def _turned_view(film: Field, scale: float, angle: float, middle: Sequence[float]) -> Field:
    """A part of it about ``middle``, y and x in pixels, turned by ``angle`` radians."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    sin, cos = scale * np.sin(angle), scale * np.cos(angle)
    where = [middle[0] + y * cos - x * sin, middle[1] + x * cos + y * sin]
    return map_coordinates(film, where, order=1, mode="reflect")


def _part(film: Field, draw: np.random.Generator) -> Field:
    """A small part of it at any angle."""
    return _turned_view(film, draw.uniform(0.25, 0.5), draw.uniform(0, 2 * np.pi), draw.uniform(16, 48, 2).tolist())


def _tilted(film: Field, draw: np.random.Generator) -> Field:
    """All of it, far from upright."""
    middle = (SIDE - 1) / 2
    return _turned_view(film, draw.uniform(0.7, 1), np.deg2rad(draw.uniform(35, 325)), (middle, middle))


def _scrambled(film: Field, draw: np.random.Generator) -> Field:
    """Its frequencies with other phases."""
    phases = np.fft.rfft2(draw.normal(size=film.shape))
    return _stretched(np.fft.irfft2(np.abs(np.fft.rfft2(film)) * phases / np.abs(phases), film.shape))


def _clouds(film: Field, draw: np.random.Generator) -> Field:
    """Noise of any coarseness."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE))) + 1 / SIDE
    noise = np.fft.fft2(draw.normal(size=film.shape))
    return _stretched(np.fft.ifft2(noise / frequency ** draw.uniform(0, 2.2)).real)


def _stretched(field: Field) -> Field:
    return 255 * (field - field.min()) / (np.ptp(field) + 1e-6)


def _leaves(film: Field, draw: np.random.Generator) -> Field:
    """Ellipses and polygons over each other, as objects in a photograph."""
    page = Image.new("L", (2 * SIDE, 2 * SIDE), int(draw.integers(256)))
    pen = ImageDraw.Draw(page)
    count = int(draw.choice([4, 10, 30, 120]))
    for _ in range(count):
        x, y = draw.uniform(-10, 2 * SIDE + 10, 2).tolist()
        size, grey = 2 * SIDE / np.sqrt(count) * draw.uniform(0.2, 1.6), int(draw.integers(256))
        if draw.random() < 0.5:
            rx, ry = (size * draw.uniform(0.3, 1, 2)).tolist()
            pen.ellipse([x - rx, y - ry, x + rx, y + ry], fill=grey)
        else:
            angles = np.sort(draw.uniform(0, 2 * np.pi, int(draw.integers(3, 6)))).tolist()
            pen.polygon([(x + size * np.cos(angle), y + size * np.sin(angle)) for angle in angles], fill=grey)
    field = np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    grain = gaussian_filter(draw.normal(size=film.shape), draw.uniform(0, 3)) * draw.uniform(0, 60)
    return gaussian_filter(field, draw.choice([0, 1, 2.5])) + grain


def _shifted(film: Field, draw: np.random.Generator) -> Field:
    """Far off the middle, what left on one side coming in on the other."""
    down, right = (draw.integers(18, 46, 2) * draw.choice([-1, 1], 2)).tolist()
    way = draw.integers(3)
    return np.roll(film, (down if way != 0 else 0, right if way != 1 else 0), (0, 1))


def _one_side(film: Field, draw: np.random.Generator) -> Field:
    """One half of the chest drawn out over the width."""
    left, width = int(draw.integers(0, 4)), int(draw.integers(26, 42))
    half = Image.fromarray(np.ascontiguousarray(film[:, left : left + width]))
    return np.asarray(half.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _trunk(film: Field, draw: np.random.Generator) -> Field:
    """A bright trunk with a few hollows or lumps anywhere, with the film's grain."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    field = draw.uniform(0, 0.4) + draw.uniform(0.4, 0.8) * np.sqrt((1 - (x / draw.uniform(0.5, 1.1)) ** 2).clip(0, 1))
    for _ in range(int(draw.integers(1, 5))):
        (cx, cy), (rx, ry), angle = draw.normal(0, 0.35, 2), draw.uniform(0.15, 0.8, 2), draw.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        field += draw.uniform(-0.6, 0.45) * np.sqrt((1 - (u / rx) ** 2 - (v / ry) ** 2).clip(0, 1))
    grain = np.rot90(film - gaussian_filter(film, 2), int(draw.integers(4)))
    return 255 * field / 1.2 + grain * draw.uniform(0, 1.2)


def _doubled(film: Field, draw: np.random.Generator) -> Field:
    """Itself and itself turned, one over the other."""
    return (film + np.rot90(film, int(draw.integers(1, 4)))) / 2


_MAKERS: tuple[Callable[[Field, np.random.Generator], Field], ...] = (
    _shuffled,
    _part,
    _tilted,
    _scrambled,
    _clouds,
    _leaves,
    _shifted,
    _one_side,
    _trunk,
    _doubled,
)
