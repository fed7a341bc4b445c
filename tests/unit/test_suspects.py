"""Films are looked at before they teach: what is wrong is mended, left out, or kept and marked."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.suspects import find
from medsynth_core.corpus.suspects.borders import borders, trimmed
from medsynth_core.corpus.suspects.find import find_suspects
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform

N, EACH = 420, 6


def film_of(number: int) -> np.ndarray:
    """Returns a phantom with a fine structure of its own, as each exposure has one, uint8 [64, 64]."""
    film = phantom_study(2, number, 64).views[0].load()
    grain = gaussian_filter(np.random.default_rng(number).normal(0, 1, film.shape), 0.8)
    return np.clip(film + 25 * grain, 0, 255).astype(np.uint8)


FILMS = np.stack([film_of(number) for number in range(N)])
PATIENTS = [f"p{number // 2}" for number in range(N)]


def photograph(number: int) -> np.ndarray:
    """Returns a picture of things that lie about, uint8 [64, 64]."""
    draw = np.random.default_rng(number)
    y, x = np.mgrid[0:64, 0:64]
    field = draw.uniform(60, 200) + y * draw.uniform(-1, 1)
    for _ in range(14):
        cy, cx, ry, rx = *draw.uniform(0, 64, 2), *draw.uniform(3, 16, 2)
        field = np.where(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1, draw.uniform(0, 255), field)
    return np.clip(gaussian_filter(field, 0.7) + draw.normal(0, 4, field.shape), 0, 255).astype(np.uint8)


def planted() -> dict[int, tuple[str, np.ndarray]]:
    """Returns what is wrong with some of the films, by place."""
    places = iter(range(3, N, 11))
    wrong: dict[int, tuple[str, np.ndarray]] = {}
    for number in range(EACH):
        inverted, turned, mirrored, other, blank, copy = (next(places) for _ in range(6))
        wrong[inverted] = ("inverted", 255 - FILMS[inverted])
        wrong[turned] = ("turned", np.rot90(FILMS[turned], 1 + 2 * (number % 2)))
        wrong[mirrored] = ("mirrored", FILMS[mirrored][:, ::-1])
        wrong[other] = ("not a frontal chest", photograph(other))
        wrong[blank] = ("blank", np.full((64, 64), 40 * number, np.uint8))
        wrong[copy] = ("copy", np.clip(FILMS[copy - 40] * 0.9 + 12, 0, 255).astype(np.uint8))
    return wrong


WRONG = planted()


def test_planted_faults_are_found() -> None:
    films = FILMS.copy()
    for place, (_, film) in WRONG.items():
        films[place] = film
    suspects = find_suspects(films, PATIENTS, seed=0)
    kinds: dict[str, list[bool]] = {}
    found = {place: {s.kind for s in suspects if s.index == place} for place in WRONG}
    for place, (kind, _) in WRONG.items():
        kinds.setdefault(kind, []).append(kind in found[place])
    assert all(np.mean(hits) >= 0.8 for hits in kinds.values()), {kind: np.mean(hits) for kind, hits in kinds.items()}
    originals = {place - 40 for place, (kind, _) in WRONG.items() if kind == "copy"}
    untouched = {s.index for s in suspects} - WRONG.keys() - originals
    assert len(untouched) <= 0.03 * N
    assert suspects == find_suspects(films, PATIENTS, seed=0), "it is the same each time"


def test_films_of_one_patient_are_no_copies() -> None:
    films = np.concatenate([FILMS[:100], FILMS[:20]])
    patients = [f"p{i % 100}" for i in range(120)]
    assert not [s for s in find_suspects(films, patients, seed=0) if s.kind == "copy"]
    assert len([s for s in find_suspects(films, [""] * 120, seed=0) if s.kind == "copy"]) == 40


def test_few_films_are_looked_at_for_blanks_and_copies(caplog: pytest.LogCaptureFixture) -> None:
    films = np.stack([*FILMS[:30], np.zeros((64, 64), np.uint8), FILMS[4], FILMS[5][::-1]])
    found = {(s.index, s.kind) for s in find_suspects(films, [str(i) for i in range(33)], seed=0)}
    assert found == {(30, "blank"), (4, "copy"), (31, "copy")}
    assert "32 films are too few to learn from" in caplog.text


@pytest.mark.parametrize("grey", [0, 3, 255])
@pytest.mark.parametrize("bars", [(8, 8, 0, 0), (0, 0, 5, 9), (6, 0, 0, 0), (4, 7, 12, 3)])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_borders_are_trimmed(grey: int, bars: tuple[int, int, int, int], noise: float) -> None:
    top, bottom, left, right = bars
    film = phantom_study(2, 5, 128).views[0].load()
    framed = np.pad(film, ((top, bottom), (left, right)), constant_values=grey).astype(np.float64)
    frame = np.pad(np.zeros(film.shape, bool), ((top, bottom), (left, right)), constant_values=True)
    framed += frame * np.random.default_rng(0).normal(0, noise, framed.shape)
    image = np.clip(framed, 0, 255).astype(np.uint8)
    assert np.abs(np.subtract(borders(image), bars)).max() <= 2
    large = image.repeat(12, axis=0).repeat(12, axis=1)
    assert np.abs(np.subtract(trimmed(large)[1], np.multiply(bars, 12))).max() <= 36


def test_films_without_borders_are_left_alone() -> None:
    assert not any(any(borders(film)) for film in FILMS[:100])
    assert not any(borders(np.zeros((64, 64), np.uint8))), "one bar all over"


def written(folder: Path, wrong: bool = True, **corpus: Any) -> tuple[Any, Corpus, dict[str, dict[str, Any]]]:
    """Returns what the stage makes of the films: its report, the corpus, and its views by id."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for number, film in enumerate(FILMS):
        shown = WRONG[number][1] if wrong and number in WRONG and WRONG[number][0] != "blank" else film
        if number == 0:
            shown = np.pad(film, ((0, 0), (20, 20)))
        Image.fromarray(np.ascontiguousarray(shown)).save(images / f"{number}.png")
    rows = {"text": "Clear lungs.", "filename": [f"{i}.png" for i in range(N)], "who": PATIENTS}
    pd.DataFrame(rows).to_csv(folder / "t.csv", index=False)
    about = {"kind": "table", "path": str(folder / "t.csv"), "image_size": 64, "columns": {"patient": "who"}}
    report = perform("corpus", parse_config({"corpus": about | corpus}, "test"), folder / "w", silent)
    found = Corpus.open(folder / "w" / "data" / "corpus")
    return report, found, {view["view_id"]: view for view in found.views().to_pylist()}


def test_what_is_wrong_is_mended_or_left_out(tmp_path: Path) -> None:
    report, corpus, views = written(tmp_path)
    with (corpus.folder / "suspects.csv").open() as stream:
        listed = list(csv.DictReader(stream))
    gone = {row["view_id"] for row in listed if row["is"] == "left out"}
    assert gone == {f"{i}.png" for i in range(N)} - views.keys()
    assert len(views) == sum(report.views.values()) == N - len(gone)
    assert sum(n for name, n in report.suspects.items() if name.endswith("left out")) == len(gone)
    assert sum(corpus.studies()["n_views"].to_pylist()) == len(views)
    mended = [view for view in views.values() if view["mended"] == "inverted"]
    assert len(mended) >= EACH - 1
    for view in mended:
        number = int(view["view_id"].removesuffix(".png"))
        assert np.array_equal(corpus.images(np.array([view["row"]]))[0], FILMS[number])
    assert views["0.png"]["mended"] == "borders"
    assert np.abs(corpus.images(np.array([views["0.png"]["row"]]))[0].astype(int) - FILMS[0]).mean() < 6
    sheet = Image.open(corpus.folder / "suspects.png")
    assert sheet.width == 12 * 64
    assert report.suspects["borders, mended"] == 1


def test_what_is_wrong_may_be_kept_and_marked(tmp_path: Path) -> None:
    report, corpus, views = written(tmp_path, suspect="keep")
    assert len(views) == N
    marked = {view["suspect"] for view in views.values()} - {None}
    assert {"mirrored", "not a frontal chest", "copy", "turned by 90 degrees", "turned by 270 degrees"} <= marked
    assert not any(name.endswith("left out") for name in report.suspects)
    assert any(view["mended"] == "inverted" for view in views.values())
    assert "images" in json.loads((corpus.folder / "corpus.json").read_text())


def test_nothing_is_looked_for_if_asked_so(tmp_path: Path) -> None:
    report, corpus, views = written(tmp_path, suspect="ignore")
    assert (len(views), report.suspects) == (N, {})
    assert not (corpus.folder / "suspects.csv").exists()
    assert views["0.png"]["mended"] is None


def test_an_update_after_mending_is_a_run_from_nothing(tmp_path: Path) -> None:
    _, corpus, _ = written(tmp_path)
    before = {path.name: path.read_bytes() for path in corpus.folder.iterdir()}
    about = {"kind": "table", "path": str(tmp_path / "t.csv"), "image_size": 64, "columns": {"patient": "who"}}
    config = parse_config({"corpus": about}, "test")
    report = perform("corpus", config, tmp_path / "w", silent, resume=True)
    assert report.taken_over == N
    assert {path.name: path.read_bytes() for path in corpus.folder.iterdir()} == before


@pytest.mark.parametrize("n", [4, 30, 260])
def test_films_that_are_drawn_alike_are_no_copies(n: int) -> None:
    """Phantoms have no fine structure of their own, so that each is like another; a tree of one film is all alike."""
    studies = [phantom_study(2, number, 64) for number in range(n)]
    drawn = np.stack([study.views[0].load() for study in studies])
    patients = [study.patient_id for study in studies]
    assert not [s for s in find_suspects(drawn, patients, seed=0) if s.kind == "copy"]
    assert not [s for s in find_suspects(drawn[[0] * n], [str(i) for i in range(n)], seed=0) if s.kind == "copy"]


def test_copies_far_apart_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a corpus of many blocks a film and its copy are seldom in one."""
    rng = np.random.default_rng(0)
    films = np.stack([phantom_study(5, index, 64).views[0].load() for index in range(400)]).astype(np.float32)
    grain = gaussian_filter(rng.normal(size=films.shape), (0, 1, 1)) * 60
    films = np.clip(films + grain, 0, 255)
    copied = np.clip(0.9 * films[:20] + 10 + rng.normal(0, 2, films[:20].shape), 0, 255)
    every = np.concatenate([films, copied]).astype(np.uint8)
    patients = [str(index) for index in range(len(every))]
    monkeypatch.setattr(find, "BLOCK", 60)
    monkeypatch.setattr(find, "FEWEST_TO_LEARN", 1000)
    found = {s.index: s.copy_of for s in find_suspects(every, patients, seed=0) if s.kind == "copy"}
    assert {index: place for place, index in enumerate(range(400, 420))}.items() <= found.items()
    assert found.keys() == {*range(20), *range(400, 420)}
