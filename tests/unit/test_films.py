"""Image files as people have them: read right, or refused with the reason that helps; read by many, and once."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medsynth_core.corpus import reading, stage
from medsynth_core.corpus.files import found, inside
from medsynth_core.corpus.images import load_film, resize_and_crop, windowed
from medsynth_core.corpus.kept import Partial
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.records import View
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import is_fresh, perform, run_stage
from medsynth_core.workspace.tree import Config

FILM = phantom_study(0, 3, 96).views[0].load()
MOST = 10**7


def saved(folder: Path, image: Image.Image, name: str = "a.png", **how: object) -> Path:
    image.save(folder / name, **how)  # type: ignore[arg-type]
    return folder / name


def differs(film: np.ndarray, other: np.ndarray = FILM) -> float:
    return float(np.abs(film.astype(np.float64) - other).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_says_which_way_is_up(tmp_path: Path, orientation: int) -> None:
    stored = {
        1: FILM, 2: FILM[:, ::-1], 3: FILM[::-1, ::-1], 4: FILM[::-1], 5: FILM.T, 6: np.rot90(FILM),
        7: FILM[::-1, ::-1].T, 8: np.rot90(FILM, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "a.jpg", exif=exif, quality=98)
    assert differs(load_film(path, MOST, 96)) < 2


@pytest.mark.parametrize("marked", [(0, 0), (95, 95), (10, 40)])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_one_bright_pixel_leaves_a_film_as_it_is(tmp_path: Path, bits: int, marked: tuple[int, int]) -> None:
    values = FILM.astype(np.uint16) * (2**bits // 256)
    plain = load_film(saved(tmp_path, Image.fromarray(values)), MOST, 96)
    values[marked] = 65535
    film = load_film(saved(tmp_path, Image.fromarray(values), "b.png"), MOST, 96)
    assert differs(film, plain) < 1
    assert differs(film, windowed(FILM)) < 2


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "1", "I", "F", "I;16"])
def test_every_mode_is_grey(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(FILM)
    if mode == "I;16":
        image = Image.fromarray(FILM.astype(np.uint16) * 200)
    elif mode in {"I", "F"}:
        image = Image.fromarray(FILM.astype(np.int32 if mode == "I" else np.float32))
    else:
        image = {"P": grey.quantize(256), "CMYK": grey.convert("RGB").convert("CMYK")}.get(mode) or grey.convert(mode)
    path = saved(tmp_path, image, "a.tif")
    expected = windowed(FILM) if mode in {"I", "F", "I;16"} else FILM
    assert differs(load_film(path, MOST, 96), expected) < (128 if mode == "1" else 2)


def faint(alpha: int) -> Image.Image:
    image = Image.fromarray(FILM).convert("LA")
    image.putalpha(alpha)
    return image


def under_alpha(mode: str) -> Image.Image:
    image = Image.new(mode, (96, 96))
    image.putalpha(Image.fromarray(FILM))
    return image


def no_numbers(value: float) -> Image.Image:
    values = FILM.astype(np.float32)
    values[3, 5] = value
    return Image.fromarray(values)


REFUSED: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "one pixel": (lambda: Image.new("L", (1, 1)), "1x1 pixels are too few for corpus.image_size=96"),
    "a line": (lambda: Image.fromarray(np.tile(FILM[40], (30, 8))), "768x30 pixels: far from square"),
    "a column": (lambda: Image.fromarray(np.tile(FILM[40, :40, None], (9, 1)).repeat(40, 1)), "far from square"),
    "a thumbnail": (lambda: Image.fromarray(FILM[::5, ::5]), "20x20 pixels are too few"),
    "white": (lambda: Image.new("L", (96, 96), 255), "flat: nearly every pixel is 255 of 255"),
    "black": (lambda: Image.new("RGB", (96, 96)), "flat: nearly every pixel is 0 of 255"),
    "grey of 16 bits": (lambda: Image.fromarray(np.full((96, 96), 900, np.uint16)), "flat"),
    "picture in the alpha of LA": (lambda: under_alpha("LA"), "its picture is in the transparency alone"),
    "picture in the alpha of RGBA": (lambda: under_alpha("RGBA"), "its picture is in the transparency alone"),
    "transparent": (lambda: faint(0), "flat"),
    "NaN": (lambda: no_numbers(np.nan), "some pixels are no number (NaN or infinite)"),
    "infinite": (lambda: no_numbers(np.inf), "some pixels are no number"),
    "minus infinite": (lambda: no_numbers(-np.inf), "some pixels are no number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_film_is_refused(tmp_path: Path, name: str) -> None:
    image, said = REFUSED[name]
    path = saved(tmp_path, image(), "a.tif")
    with pytest.raises(InputError) as caught:
        load_film(path, MOST, 96)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(FILM), Image.fromarray(FILM[::-1])]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"a\.tif: 2 frames in one file; a film has one"):
        load_film(tmp_path / "a.tif", MOST, 96)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png: (the file is empty|not a readable image)"):
        load_film(tmp_path / "a.png", MOST, 96)


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(FILM))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match=r"a\.png: not a readable image"):
        load_film(path, MOST, 96)


@pytest.mark.parametrize("name", ["Hüfte.png", "Ärzte/Ü.png", "é.png", "가.png"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_names_in_another_form_of_unicode_are_found(tmp_path: Path, name: str, on_disk: str) -> None:
    path = tmp_path / unicodedata.normalize("NFC", name)
    path.parent.mkdir(exist_ok=True)
    (path.parent / unicodedata.normalize(on_disk, path.name)).touch()
    other = "NFD" if on_disk == "NFC" else "NFC"
    assert found(path.parent / unicodedata.normalize(other, path.name)).is_file()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("1.PNG", "image not found; there is '1.png'"), ("1", "image not found; there is '1.png'"),
        ("1.jpg", "image not found; there is '1.png'"), ("2.png", "image not found"),
        ("folder", "a folder, not an image"),
        ("link.png", "a link to nowhere.png, which isn't there"),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_there_is_told(tmp_path: Path, asked: str, said: str) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere.png")
    with pytest.raises(InputError) as caught:
        found(tmp_path / asked)
    assert str(caught.value) == said


def test_links_are_followed_and_paths_stay_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    saved(outside, Image.fromarray(FILM))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "linked").symlink_to(outside)
    assert differs(load_film(inside(folder, "linked/a.png"), MOST, 96)) == 0
    assert inside(folder, r"linked\a.png") == folder / "linked" / "a.png"
    assert inside(folder, str(folder / "a.png")) == folder / "a.png"
    for name in ("../outside/a.png", "x/../../outside/a.png", str(outside / "a.png"), r"..\outside\a.png"):
        with pytest.raises(InputError, match="image path leaves its folder"):
            inside(folder, name)
    with pytest.raises(InputError, match=r"a path of another machine \(C:\)"):
        inside(folder, r"C:\films\a.png")


@pytest.mark.parametrize("shape", [(1500, 1200), (900, 1800), (640, 640)])
def test_a_jpeg_is_decoded_no_larger_than_it_needs(tmp_path: Path, shape: tuple[int, int]) -> None:
    large = Image.fromarray(FILM).resize((shape[1], shape[0]))
    path = saved(tmp_path, large, "a.jpg", quality=95)
    reduced, whole = load_film(path, MOST, 64), load_film(path, MOST, 64, whole=True)
    assert whole.shape == shape
    assert 128 <= min(reduced.shape) < min(shape)
    assert differs(resize_and_crop(reduced, 64), resize_and_crop(whole, 64)) < 1.5


def films_of(folder: Path, n: int, **corpus: object) -> Config:
    """Returns the configuration of a table of ``n`` films, a third of them of 16 bits."""
    (folder / "images").mkdir(exist_ok=True)
    for number in range(n):
        film = phantom_study(0, number, 40).views[0].load()
        deep = number % 3 == 0
        Image.fromarray(film.astype(np.uint16) * 250 if deep else film).save(folder / "images" / f"{number}.png")
    table = {"text": [f"Effusion {i}." for i in range(n)], "filename": [f"{i}.png" for i in range(n)]}
    pd.DataFrame(table).to_csv(folder / "t.csv", index=False)
    about = {"kind": "table", "path": str(folder / "t.csv"), "image_size": 32}
    return parse_config({"corpus": about | corpus}, "test")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_any_number_of_processes_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = films_of(tmp_path, 60)
    written = []
    for processes in (1, 2):
        monkeypatch.setattr(stage, "processes_for", lambda *_, n=processes: n)
        perform("corpus", config, tmp_path / str(processes), silent)
        written.append(contents(tmp_path / str(processes) / "data" / "corpus"))
    assert written[0] == written[1]


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_was_cut_off_goes_on_from_the_last_whole_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    for module in ("stage", "kept", "normalised"):
        monkeypatch.setattr(f"medsynth_core.corpus.{module}.IMAGES_PER_CHUNK", 8)
    config = films_of(tmp_path, 50)
    perform("corpus", config, tmp_path / "whole", silent)
    root, note, read = tmp_path / "w", Partial.note, reading.read_film
    for kill in range(times):
        left = [2]

        def cut(self: Partial, *chunk: object, left: list[int] = left) -> None:
            if not left[0]:
                raise KilledError
            left[0] -= 1
            note(self, *chunk)  # type: ignore[arg-type]

        monkeypatch.setattr(Partial, "note", cut)
        with pytest.raises(KilledError):
            perform("corpus", config, root, silent)
        assert not (root / "data" / "corpus").exists()
        assert len(list((root / "data" / "corpus-partial").glob("run-*"))) == kill + 1
    monkeypatch.setattr(Partial, "note", note)
    asked: list[str] = []
    monkeypatch.setattr(reading, "read_film", lambda view, *how: asked.append(view.view_id) or read(view, *how))
    report = perform("corpus", config, root, silent)
    assert (report.taken_over, len(asked)) == (16, 34), "two whole chunks, whatever was done since"
    assert contents(root / "data" / "corpus") == contents(tmp_path / "whole" / "data" / "corpus")
    assert not (root / "data" / "corpus-partial").exists()


def test_an_update_reads_what_is_new_or_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    perform("corpus", films_of(tmp_path, 20), tmp_path / "w", silent)
    config = films_of(tmp_path, 26)
    for number in range(20):
        if number != 7:  # it alone was written anew at another time
            os.utime(tmp_path / "images" / f"{number}.png", ns=(1, 1))
    perform("corpus", config, tmp_path / "w", silent)
    os.utime(tmp_path / "images" / "7.png", ns=(2, 2))
    asked: list[str] = []
    read = reading.read_film
    monkeypatch.setattr(reading, "read_film", lambda view, *how: asked.append(view.view_id) or read(view, *how))
    report = perform("corpus", films_of_again(tmp_path), tmp_path / "w", silent, resume=True)
    assert asked == ["26.png", "7.png"]
    assert report.taken_over == 25
    again = perform("corpus", films_of_again(tmp_path), tmp_path / "anew", silent)
    assert again.taken_over == 0
    assert contents(tmp_path / "w" / "data" / "corpus") == contents(tmp_path / "anew" / "data" / "corpus")


def films_of_again(folder: Path) -> Config:
    """Returns the configuration of the same table with one film more, at its beginning."""
    table = pd.read_csv(folder / "t.csv", dtype=str)
    if len(table) == 26:
        Image.fromarray(FILM).save(folder / "images" / "26.png")
        new = pd.DataFrame({"text": ["Effusion 26."], "filename": ["26.png"]})
        pd.concat([table[:5], new, table[5:]]).to_csv(folder / "t.csv", index=False)
    about = {"kind": "table", "path": str(folder / "t.csv"), "image_size": 32}
    return parse_config({"corpus": about}, "test")


def test_another_size_takes_nothing_over(tmp_path: Path) -> None:
    perform("corpus", films_of(tmp_path, 12), tmp_path / "w", silent)
    config = films_of(tmp_path, 12, image_size=64, max_bad_fraction=1.0)
    assert perform("corpus", config, tmp_path / "w", silent, resume=True).taken_over == 0
    about = json.loads((tmp_path / "w" / "data" / "corpus" / "corpus.json").read_text())
    assert about["image_size"] == Corpus.open(tmp_path / "w" / "data" / "corpus").image_size == 64


def test_a_changed_table_makes_a_corpus_stale(tmp_path: Path) -> None:
    root = tmp_path / "w"
    config = films_of(tmp_path, 26)
    run_stage("corpus", config, root, silent)
    assert is_fresh("corpus", config, root)
    films_of_again(tmp_path)
    assert not is_fresh("corpus", config, root)
    assert run_stage("corpus", config, root, silent, resume=True)["taken_over"] == 26
    assert is_fresh("corpus", config, root)


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, read = films_of(tmp_path, 6), reading.read_film

    def changed_meanwhile(view: View, *how: Any) -> reading.Film:
        film = read(view, *how)
        if view.view_id == "3.png":
            os.utime(view.files[0], ns=(3, 3))
        return film

    monkeypatch.setattr(reading, "read_film", changed_meanwhile)
    perform("corpus", config, tmp_path / "w", silent)
    monkeypatch.setattr(reading, "read_film", read)
    assert perform("corpus", config, tmp_path / "w", silent, resume=True).taken_over == 5
