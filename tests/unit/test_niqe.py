import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.errors import InputError
from medsynth_core.models.naturalness import NaturalnessModel, _asymmetric


@pytest.fixture(scope="module")
def phantoms() -> np.ndarray:
    return np.stack([phantom_study(0, index, 64).views[0].load() for index in range(120)])


def test_worse_images_score_higher(phantoms: np.ndarray) -> None:
    model, held_out = NaturalnessModel.fit(phantoms[:80]), phantoms[80:]
    noise = np.random.default_rng(0).normal(0, 15, held_out.shape)
    noisy = (held_out + noise).clip(0, 255).astype(np.uint8)
    blurred = gaussian_filter(held_out.astype(float), (0, 1.5, 1.5)).astype(np.uint8)
    fine = model.scores(held_out)
    assert fine.shape == (40,)
    assert model.scores(noisy).mean() > 2 * fine.mean()
    assert model.scores(blurred).mean() > 2 * fine.mean()
    assert np.isfinite(model.scores(np.full((1, 64, 64), 90, dtype=np.uint8))).all()


def test_a_gaussian_has_shape_two() -> None:
    shape, left, right, centre = _asymmetric(np.random.default_rng(0).normal(0, 3, (1, 400, 400)))
    assert shape[0] == pytest.approx(2.0, abs=0.05)
    assert left[0] == pytest.approx(3 * 2**0.5, rel=0.02)
    assert right[0] == pytest.approx(3 * 2**0.5, rel=0.02)
    assert centre[0] == pytest.approx(0.0, abs=0.05)


def test_too_few_images_are_an_error(phantoms: np.ndarray) -> None:
    with pytest.raises(InputError, match="NIQE needs more images"):
        NaturalnessModel.fit(phantoms[:2])
