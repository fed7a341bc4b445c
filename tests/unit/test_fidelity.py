"""Fidelity figures on phantoms whose answer is known: strangers of the same kind, and what was done to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, zoom

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.errors import FidelityError
from medsynth_core.fidelity import compared
from medsynth_core.fidelity.compared import Side, fidelity_figures, told_apart_figures
from medsynth_core.fidelity.diversity import diversity_figures
from medsynth_core.fidelity.figures import FidelityFigure
from medsynth_core.fidelity.floors import keep_floors, whose_fault
from medsynth_core.fidelity.settings import FidelityFloors
from medsynth_core.fidelity.spaces import SPACES, Range, least_share, real_ranges
from medsynth_core.fidelity.spectrum import band_powers, radial_profile, spectrum_features
from medsynth_core.fidelity.told_apart import by_network, by_spectrum
from medsynth_core.judging.measured import as_report
from medsynth_core.models.texture import TextureEncoder
from medsynth_core.release.looks import looks

SIDE, CPU = 64, torch.device("cpu")
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def films() -> Side:
    studies = [phantom_study(0, index, SIDE) for index in range(520)]
    return Side(np.stack([study.views[0].load() for study in studies]), [study.patient_id for study in studies])


def part(films: Side, start: int, stop: int) -> Side:
    return Side(films.images_u8[start:stop], films.groups[start:stop])


def grey(pixels: np.ndarray) -> np.ndarray:
    return pixels.round().clip(0, 255).astype(np.uint8)


def blurred(images_u8: np.ndarray) -> np.ndarray:
    return grey(gaussian_filter(images_u8.astype(float), (0, 1.5, 1.5)))


def noisy(images_u8: np.ndarray) -> np.ndarray:
    return grey(images_u8 + np.random.default_rng(0).normal(0, 10, images_u8.shape))


def halved(images_u8: np.ndarray) -> np.ndarray:
    small = images_u8.reshape(len(images_u8), SIDE // 2, 2, SIDE // 2, 2).mean((2, 4))
    return grey(zoom(small, (1, 2, 2), order=1, grid_mode=True, mode="nearest"))


def without_a_band(images_u8: np.ndarray) -> np.ndarray:
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    kept = np.where((radius > 0.2) & (radius < 0.35), 0.2, 1.0)
    return grey(np.fft.irfft2(np.fft.rfft2(images_u8.astype(float)) * kept, (SIDE, SIDE)))


CHANGES = (blurred, noisy, halved, without_a_band)


def test_strangers_of_the_same_kind_cant_be_told_apart(films: Side) -> None:
    ours, theirs = part(films, 0, 150), part(films, 150, 300)
    groups = [*ours.groups, *theirs.groups]
    for value, low, high in (
        by_spectrum(ours.images_u8, theirs.images_u8, groups, 0),
        by_network(ours.images_u8, theirs.images_u8, groups, 0, CPU),
    ):
        assert value <= 0.6
        assert low <= value <= high
        assert low <= 0.5


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_done_to_films_shows_in_their_spectra(films: Side, change: Change) -> None:
    ours = part(films, 0, 120)
    value, low, high = by_spectrum(change(ours.images_u8), ours.images_u8, [*ours.groups, *ours.groups], 0)
    assert value >= 0.99
    assert low <= value <= high


def test_a_network_sees_a_blur_of_strangers(films: Side) -> None:
    ours, theirs = part(films, 0, 120), part(films, 150, 270)
    groups = [*ours.groups, *theirs.groups]
    found = [by_network(blurred(ours.images_u8), theirs.images_u8, groups, 0, CPU) for _ in range(2)]
    assert found[0][0] >= 0.99
    assert found[0] == found[1], "figures follow from the seed"


@pytest.fixture(scope="module")
def ranges(films: Side) -> tuple[Range, ...]:
    return real_ranges(films.images_u8[:300], films.images_u8[300:420], CPU)


def test_real_films_lie_within_their_range(films: Side, ranges: tuple[Range, ...]) -> None:
    assert [each.space for each in ranges] == list(SPACES)
    for each in ranges:
        assert each.holds(films.images_u8[420:]).mean() >= 0.85


@pytest.mark.parametrize("change", CHANGES)
def test_changed_films_leave_the_range(films: Side, ranges: tuple[Range, ...], change: Change) -> None:
    assert least_share(ranges, change(films.images_u8[420:])) <= 0.05


def test_what_no_eye_sees_is_forgiven_in_a_corpus_that_is_all_alike(films: Side) -> None:
    alike = np.repeat(films.images_u8[:1], 120, 0) + np.random.default_rng(0).integers(0, 2, (120, SIDE, SIDE))
    ranges = real_ranges(grey(alike[:60]), grey(alike[60:]), CPU)
    for each in ranges:
        assert np.isfinite(each.distances(films.images_u8[:10])).all()
        assert each.distances(grey(alike[:60] * 1.01)).max() < 1.5


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the networks where their figures aren't looked at."""
    monkeypatch.setattr(compared, "by_network", lambda *_: (0.5, 0.4, 0.6))


@pytest.mark.usefixtures("no_network")
def test_figures_are_of_three_comparisons_and_two_sides(films: Side, ranges: tuple[Range, ...]) -> None:
    real = part(films, 420, 520)
    sides = {"synthetic": part(films, 300, 400), "rendered": Side(blurred(real.images_u8), real.groups), "real": real}
    told = list(told_apart_figures(sides, 80, 0, CPU))
    assert [(each.side, each.against, each.space) for each in told] == [
        (side, against, space)
        for side, against in (("synthetic", "real"), ("rendered", "real"), ("synthetic", "rendered"))
        for space in ("spectrum", "network")
    ]
    assert {each.n for each in told} == {80}
    assert told[2].value == pytest.approx(1.0, abs=0.01)
    within = {(each.side, each.space): each for each in fidelity_figures(sides, ranges)}
    assert within["synthetic", "spectrum"].value >= 0.85
    assert within["rendered", "spectrum"].value == 0.0
    assert within["rendered", "spectrum"].real == within["synthetic", "spectrum"].real >= 0.85


@pytest.mark.usefixtures("no_network")
def test_few_groups_have_a_reason_and_no_figure(films: Side) -> None:
    alone = Side(films.images_u8[:20], ["one prompt"] * 20)
    sides = {"synthetic": alone, "rendered": part(films, 20, 40), "real": part(films, 20, 40)}
    told = list(told_apart_figures(sides, 20, 0, CPU))
    assert [each.reason for each in told[:2]] == ["fewer than 10 prompts or patients"] * 2
    assert told[2].value is not None


def test_a_wave_has_its_power_at_its_frequency() -> None:
    x = np.arange(SIDE)
    wave = grey(128 + 100 * np.sin(2 * np.pi * 12 * x / SIDE))[None, None].repeat(SIDE, 1)
    frequencies, power = radial_profile(wave)
    assert frequencies[power.argmax()] == 12
    assert frequencies[-1] == SIDE / 2
    flat = radial_profile(np.full((1, SIDE, SIDE), 90, dtype=np.uint8))[1]
    assert flat == pytest.approx(np.log10(1 / 12))


@pytest.mark.parametrize("side", [16, 32, 33, 64, 256])
def test_any_size_has_features(side: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    assert np.isfinite(spectrum_features(images)).all()
    white = band_powers(images, np.geomspace(2, side / 2, 5))
    assert white == pytest.approx(np.log10((256**2 - 1) / 12), abs=0.5), "white noise has its variance everywhere"
    assert torch.isfinite(TextureEncoder()(torch.from_numpy(images))).all()


def test_textures_are_the_same_everywhere() -> None:
    """Drawn from a named seed: another draw would make every range and figure another."""
    net = TextureEncoder()
    assert net.weights_0.flatten()[:3].tolist() == pytest.approx(WEIGHTS, abs=1e-5)
    assert net.weights_0.sum((2, 3)).abs().max() < 1e-5
    assert TextureEncoder()(torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)).shape == (2, 128)


WEIGHTS = [0.067435, -0.132656, 0.094101]


def row(side: str, value: float | None, high: float, space: str = "spectrum") -> dict:
    about = {"metric": "fidelity", "space": space, "side": side, "against": "real", "n": 99, "n_held_out": 99}
    reason = None if value is not None else "too few"
    return {**about, "value": value, "low": 0.0, "high": high, "real": 0.95, "reason": reason}


def test_a_fidelity_below_its_floor_forbids_to_publish_and_says_whose_fault_it_is() -> None:
    floors = FidelityFloors(tokenizer=0.5, images=0.5)
    bad = [row("synthetic", 0.02, 0.1), row("rendered", 0.1, 0.2)]
    told = {"metric": "told_apart", "space": "spectrum", "side": "synthetic", "against": "real", "value": 1.0}
    with pytest.raises(FidelityError, match=r"fidelity \(spectrum\) is 0\.1 .*min_fidelity\.tokenizer=0\.5") as raised:
        keep_floors([told, *bad], floors)
    assert raised.value.exit_code == 14
    assert "The image tokenizer is at fault. Mend that with more models.vqgan.train.steps" in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(
        FidelityError, match=r"below release\.min_fidelity\.images=0\.5.* The image tokenizer is at fault"
    ):
        keep_floors(bad, FidelityFloors(tokenizer=None))
    fine = row("rendered", 0.9, 0.95)
    with pytest.raises(FidelityError, match=r"The language model is at fault\. Mend that with more models\.llm"):
        keep_floors([bad[0], fine], floors)
    kept = keep_floors([told, *bad], FidelityFloors(tokenizer=None, images=None))
    assert [each["floor"] for each in kept] == [None, None, None]
    good = [row("synthetic", 0.8, 0.9), fine]
    assert [each["floor"] for each in keep_floors(good, floors)] == [0.5, 0.5]


def test_the_worse_space_counts() -> None:
    rows = [row("synthetic", 0.9, 0.95), row("synthetic", 0.1, 0.2, "texture"), row("rendered", 0.9, 0.95)]
    with pytest.raises(FidelityError, match=r"fidelity \(texture\) is 0\.1"):
        keep_floors(rows, FidelityFloors())


def test_what_chance_explains_and_what_wasnt_measured_is_published() -> None:
    assert keep_floors([row("synthetic", 0.45, 0.52), row("rendered", None, 0.0)], FidelityFloors())


@pytest.mark.parametrize(
    ("images", "renderings", "fault"),
    [(0.1, 0.2, "the image tokenizer"), (0.1, 0.9, "the language model"), (0.94, 0.95, None)],
)
def test_whose_fault_it_is(images: float, renderings: float, fault: str | None) -> None:
    rows = [row("synthetic", images, images + 0.03), row("rendered", renderings, 1.0)]
    assert whose_fault("spectrum", rows) == fault
    assert whose_fault("texture", rows) is None


def about(rows: list[dict] | None) -> dict:
    found = {"own_models": True, "corpus": {"kind": "csv"}}
    return found if rows is None else {**found, "fidelity": {"figures": rows}}


def test_the_card_says_first_that_images_are_told_at_a_glance() -> None:
    told = {"metric": "told_apart", "space": "spectrum", "side": "synthetic", "against": "real"}
    told |= {"value": 0.998, "low": 0.99, "high": 1.0}
    said = looks(about([told, row("synthetic", 0.02, 0.1), row("rendered", 0.1, 0.2)]))
    assert said[0] == (
        "The images are told at a glance from real films that no model learnt from: "
        "AUC 1.00 (0.99 to 1.00) by a linear test on spectra; 0.5 is a guess."
    )
    assert "Fidelity: 2% of the images" in said[1]
    assert said[-1] == "What is short is mostly the fault of the image tokenizer."
    assert "hardly told from" in looks(about([told | {"value": 0.52}]))[0]


def test_images_that_are_all_alike_lack_diversity(films: Side) -> None:
    training, real = part(films, 0, 260), part(films, 260, 520)
    alike = Side(np.concatenate([part(films, 0, 6).images_u8] * 20), ["p"] * 120)
    strangers = part(films, 140, 260)
    for synthetic, low, high in ((strangers, 0.85, 1.1), (alike, 0.0, 0.5)):
        found = list(diversity_figures(synthetic, training, real, 0, CPU))
        assert [(each.metric, each.space) for each in found] == [
            (metric, space) for space in ("layout", "texture") for metric in ("recall", "coverage")
        ]
        assert all(each.n == 120 and each.n_held_out == 260 for each in found)
        assert all(low <= each.value / each.real <= high for each in found), found


def test_the_card_says_that_images_are_too_much_alike() -> None:
    told = row("synthetic", 0.9, 0.95)
    rows = [told, *(told | {"metric": "recall", "space": space, "real": 0.9} for space in ("layout", "texture"))]
    rows[1] |= {"value": 0.3}
    found = about(rows)
    assert looks(found)[-1] == (
        "Diversity: recall of real films in layout is 0.30, where as many training images get 0.90."
    )
    found["fidelity"]["low_diversity"] = 0.5
    assert looks(found)[-1].endswith("0.90: 33% of it, below release.low_diversity=0.5. The images are too much alike.")
    found["fidelity"]["low_diversity"] = 0.3
    assert looks(found)[-1].endswith("training images get 0.90.")


def test_the_card_of_a_release_that_wasnt_measured_says_so() -> None:
    assert looks(about(None)) == ["How far the images look like real films was not measured."]
    unmeasured = FidelityFigure("fidelity", "all", 3, 9, reason="3 synthetic images are few")
    rows = as_report(3, 9, 9, [unmeasured])["figures"]
    assert looks(about(rows))[0].endswith("was not measured: 3 synthetic images are few.")
    assert keep_floors(rows, FidelityFloors())
