"""A study as its reader meets it: the page in Chromium, by keyboard, from the first film to the scored file.

Without ``chromium`` and ``chromedriver`` (apt-get install chromium chromium-driver) these tests are skipped.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import alert_is_present
from selenium.webdriver.support.ui import WebDriverWait
from typer.testing import CliRunner

from medsynth_core.cli.main import app
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.evaluation.study.key import Key, KeyFilm
from medsynth_core.evaluation.study.make import Plan, make_study
from medsynth_core.progress import silent
from medsynth_core.workspace.stages import workspace_paths
from tests.chromium import PHONE, Browser, asked_for, contrast, opened, started
from tests.studied import change, study_workspace

pytestmark = pytest.mark.integration
DESKTOP = (1280, 800)
N = 6
WITHOUT_STORAGE = (
    "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }});"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_workspace(tmp_path_factory.mktemp("study") / "w")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


@pytest.fixture
def study(root: Path, tmp_path: Path) -> tuple[Path, Key]:
    """A study of its own for each test, since a browser keeps the answers of one: its folder and key."""
    folder = tmp_path / "study"
    return folder, make_study(Plan(N, 0, tmp_path.name), workspace_paths(root), folder, silent)


@pytest.fixture
def page(browser: Browser, study: tuple[Path, Key], tmp_path: Path) -> Browser:
    """The page, opened on a desktop; what it saves goes into the test's folder."""
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    return opened(browser, study[0] / "study.html", DESKTOP)


def press(page: Browser, *keys: str) -> None:
    """Presses keys where the focus is, one after the other."""
    for key in keys:
        page.switch_to.active_element.send_keys(key)


def begin(page: Browser, name: str = "AB") -> None:
    """Fills in who reads, by keyboard, and begins."""
    page.find_element(By.NAME, "name").send_keys(name, Keys.TAB)
    press(page, "radiologist", Keys.TAB, "7", Keys.ENTER)


def shown(page: Browser) -> str:
    """Returns the token of the film on the screen, once it is drawn."""
    canvas = page.find_element(By.ID, "picture")
    number = int(page.find_element(By.ID, "place").text.split()[1])
    films = json.loads(page.find_element(By.ID, "study").get_property("textContent"))["films"]  # type: ignore[arg-type]
    WebDriverWait(page, 10).until(lambda _: canvas.get_dom_attribute("data-shown") == films[number - 1])
    return str(films[number - 1])


def chosen(page: Browser) -> list[str]:
    found = page.find_elements(By.CSS_SELECTOR, "#answer :checked")
    return [str(each.get_dom_attribute("value")) for each in found]


def letter_of(page: Browser, finding: str) -> str:
    label = page.find_element(By.CSS_SELECTOR, f"[value='{finding}']").find_element(By.XPATH, "..")
    return label.find_element(By.TAG_NAME, "kbd").text.lower()


def answer(page: Browser, film: KeyFilm, realism: int) -> None:
    """Answers truly, by keyboard."""
    press(page, film.origin[0], *(letter_of(page, finding) for finding in film.findings), str(realism))


def saved_file(page: Browser, folder: Path) -> Path:
    """Saves by keyboard and returns the file."""
    page.execute_script("document.getElementById('save').focus()")
    before = set(folder.glob("answers*.json"))
    press(page, Keys.ENTER)
    WebDriverWait(page, 10).until(lambda _: set(folder.glob("answers*.json")) - before)
    return (set(folder.glob("answers*.json")) - before).pop()


def test_a_study_is_answered_by_keyboard_resumed_saved_and_scored(
    page: Browser, study: tuple[Path, Key], tmp_path: Path
) -> None:
    folder, key = study
    films = {film.film: film for film in key.films}
    begin(page)
    for number in range(2 * N):
        if number == N:  # in the middle, with the film half answered
            press(page, films[shown(page)].origin[0])
            page.refresh()
            assert f"{N} of {2 * N} films are complete" in page.find_element(By.ID, "kept").text
            assert page.find_element(By.ID, "begin").text == "Go on"
            page.find_element(By.NAME, "years").send_keys(Keys.ENTER)
            assert chosen(page) == [films[shown(page)].origin]
        else:
            assert chosen(page) == [], "the film before leaves nothing"
        assert page.find_element(By.ID, "place").text == f"Film {number + 1} of {2 * N}"
        film = films[shown(page)]
        answer(page, film, 5 if film.origin == "real" else 2)
        assert page.find_element(By.ID, "missing").text == "Complete"
        press(page, Keys.ARROW_RIGHT)
    assert "All 12 films are complete" in page.find_element(By.ID, "summary").text
    path = saved_file(page, tmp_path)
    assert path.name == f"answers-{key.study}-ab.json"
    content = json.loads(path.read_text())
    assert content["reader"] == {"name": "AB", "role": "radiologist", "years": 7}
    assert [each["film"] for each in content["answers"]] == [film.film for film in key.films]
    assert all(0 < each["seconds"] < 60 for each in content["answers"])
    done = CliRunner().invoke(app, ["study", "score", str(folder), str(path), "--json"])
    assert done.exit_code == 0, done.output
    (reader,) = json.loads(done.output)["readers"]
    assert reader["complete"] == 2 * N
    assert reader["told"]["accuracy"]["value"] == 1.0
    assert reader["told"]["realism_auc"]["value"] == 1.0
    assert {reader["told"]["agreement"][origin][0]["kappa"]["value"] for origin in ("real", "synthetic")} == {1.0}
    assert page.get_log("browser") == []


def test_the_screen_shows_the_films_as_they_are(page: Browser, study: tuple[Path, Key], root: Path) -> None:
    corpus = Corpus.open(root / "data" / "corpus")
    rows = {row["view_id"]: row["row"] for row in corpus.views().to_pylist()}
    begin(page)
    for film in study[1].films:
        shown(page)
        data = str(page.execute_script("return document.getElementById('picture').toDataURL()"))
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))))
        assert (pixels[..., 0] == pixels[..., 2]).all()
        if film.origin == "real":
            np.testing.assert_array_equal(pixels[..., 0], corpus.images(np.array([rows[film.source]]))[0])
        press(page, Keys.ARROW_RIGHT)


def test_nothing_is_asked_of_a_network_nor_could_be(page: Browser) -> None:
    begin(page)
    shown(page)
    asked = asked_for(page)
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in asked) == 1
    assert page.get_log("browser") == []
    page.execute_script("""
        document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/x.png"}));
        document.body.append(Object.assign(document.createElement("script"), {textContent: "window.planted = 1"}));
        document.body.insertAdjacentHTML("beforeend", "<b style='color: red' onclick='window.planted = 1'></b>");
        document.body.lastChild.click();
        fetch("http://127.0.0.1:9/").catch(() => {});
    """)
    assert page.execute_script("return window.planted") is None
    refused = " ".join(entry["message"] for entry in page.get_log("browser"))
    for directive in ("img-src", "script-src", "style-src", "default-src"):
        assert directive in refused


def test_no_finding_and_others_exclude_each_other(page: Browser, study: tuple[Path, Key]) -> None:
    begin(page)
    some = study[1].findings[1]
    press(page, letter_of(page, some), "n")
    assert chosen(page) == ["no finding"]
    press(page, letter_of(page, some))
    assert chosen(page) == [some]
    press(page, letter_of(page, some))
    assert chosen(page) == []


def test_answers_are_changed_by_going_back_and_a_remark_takes_letters(
    page: Browser, study: tuple[Path, Key], tmp_path: Path
) -> None:
    begin(page)
    press(page, "r", "n", "3", Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert chosen(page) == ["real", "no finding", "3"]
    page.find_element(By.NAME, "remark").send_keys("ribs end in z, \N{GRINNING FACE}", Keys.ENTER)
    press(page, "s", "1")
    assert chosen(page) == ["synthetic", "no finding", "1"]
    assert page.find_element(By.ID, "zoom").text == "Zoom 1×", "z was written, not pressed"
    page.find_element(By.ID, "to-overview").click()
    assert f"1 of {2 * N} films are complete" in page.find_element(By.ID, "summary").text
    states = [each.get_dom_attribute("class") for each in page.find_elements(By.CSS_SELECTOR, "#films button")]
    assert states == ["complete", *["open"] * (2 * N - 1)]
    first = json.loads(saved_file(page, tmp_path).read_text())["answers"][0]
    assert (first["origin"], first["findings"], first["realism"]) == ("synthetic", ["no finding"], 1)
    assert first["remark"].startswith("ribs end in z")
    page.find_elements(By.CSS_SELECTOR, "#films button")[4].click()
    assert page.find_element(By.ID, "place").text == f"Film 5 of {2 * N}"


def test_a_film_is_enlarged_moved_and_inverted(page: Browser) -> None:
    begin(page)
    canvas, view = page.find_element(By.ID, "picture"), page.find_element(By.ID, "view")
    width = canvas.rect["width"]
    press(page, "z", "i")
    assert canvas.rect["width"] == pytest.approx(2 * width, rel=0.05)
    assert "invert(1)" in canvas.value_of_css_property("filter")
    assert float(view.get_property("scrollTop")) > 0, "the middle stays the middle"  # type: ignore[arg-type]
    press(page, "0")
    assert canvas.rect["width"] == pytest.approx(width, abs=1)
    assert "invert(0)" in canvas.value_of_css_property("filter")
    page.find_element(By.ID, "contrast").send_keys(Keys.ARROW_RIGHT)
    assert "contrast(1.05)" in canvas.value_of_css_property("filter")
    assert page.find_element(By.ID, "place").text == f"Film 1 of {2 * N}", "the slider's arrow is the slider's"


def test_where_the_browser_keeps_nothing_the_page_says_so_and_a_file_does(
    browser: Browser, study: tuple[Path, Key], tmp_path: Path
) -> None:
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    planted = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WITHOUT_STORAGE})
    try:
        page = opened(browser, study[0] / "study.html", DESKTOP)
        assert "doesn't keep answers" in page.find_element(By.ID, "kept").text
        begin(page)
        press(page, "r", "n", "4", Keys.ARROW_RIGHT, "s")
        page.find_element(By.ID, "to-overview").click()
        assert "doesn't keep your answers" in page.find_element(By.ID, "saved").text
        path = saved_file(page, tmp_path)
        page.refresh()
        assert page.find_element(By.NAME, "name").get_property("value") == ""
        page.find_element(By.ID, "load").send_keys(str(path))
        WebDriverWait(page, 10).until(lambda _: page.find_element(By.ID, "begin").text == "Go on")
        assert page.find_element(By.NAME, "name").get_property("value") == "AB"
        page.find_element(By.ID, "begin").click()
        assert page.find_element(By.ID, "place").text == f"Film 2 of {2 * N}", "the first that isn't complete"
        assert chosen(page) == ["synthetic"]
        assert page.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", planted)


def test_a_file_that_isnt_of_this_study_is_refused_in_words(
    page: Browser, study: tuple[Path, Key], tmp_path: Path
) -> None:
    begin(page)
    press(page, "r")
    page.find_element(By.ID, "to-overview").click()
    path = saved_file(page, tmp_path)
    page.find_element(By.ID, "details").click()
    kept, good = path.with_name("kept.json"), path.read_text()
    change(path, lambda each: each.update(study="other"))
    for text, said in ((path.read_text(), "of another study"), ("{", "damaged"), ("{}", "isn't a file of answers")):
        path.write_text(text)
        page.find_element(By.ID, "load").send_keys(str(path))
        WebDriverWait(page, 10).until(lambda _, said=said: said in page.find_element(By.ID, "problem").text)
    page.find_element(By.ID, "begin").click()
    assert chosen(page) == ["real"], "what was answered stays"
    assert not page.find_element(By.ID, "problem").is_displayed()
    press(page, "s")
    page.find_element(By.ID, "to-overview").click()
    page.find_element(By.ID, "details").click()
    kept.write_text(good)
    page.find_element(By.ID, "load").send_keys(str(kept))
    WebDriverWait(page, 10).until(alert_is_present()).accept()
    page.find_element(By.ID, "begin").click()
    assert chosen(page) == ["real"], "the file's answer took the place of the other"


def test_another_reader_at_the_same_computer_starts_anew(page: Browser) -> None:
    begin(page)
    press(page, "r", "n", "4")
    page.refresh()
    page.find_element(By.ID, "anew").click()
    page.switch_to.alert.accept()
    assert page.find_element(By.NAME, "name").get_property("value") == ""
    assert page.find_element(By.ID, "begin").text == "Begin"
    page.refresh()
    begin(page, "CD")
    assert chosen(page) == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_it_fits_the_screen_and_can_be_read_and_named(
    browser: Browser, study: tuple[Path, Key], size: tuple[int, int]
) -> None:
    page = opened(browser, study[0] / "study.html", size)

    def judged(*selectors: str) -> None:
        assert page.execute_script("return document.documentElement.scrollWidth") <= size[0]
        for selector in selectors:
            for element in page.find_elements(By.CSS_SELECTOR, selector):
                if element.is_displayed():
                    assert contrast(page, element) >= 4.5, selector
        nameless = [node for node in tree(page) if node["role"] in CONTROLS and not node["name"]]
        assert not nameless

    judged("p", "label", "button", "h1", ".file", "summary", "select", "input")
    begin(page)
    shown(page)
    press(page, "r")
    judged("legend", ".choice", ".choice kbd", "button", "#count", "#missing", ".ends span", ".tools label", "h1")
    assert page.find_element(By.ID, "picture").rect["width"] >= 0.5 * min(size)
    after = page.find_element(By.ID, "after").rect
    assert after["y"] + after["height"] <= size[1], "the way on is on the screen"
    page.find_element(By.NAME, "origin").send_keys(Keys.TAB)
    outline = page.switch_to.active_element.value_of_css_property("outline-style")
    assert outline == "solid", "the focus is seen"
    page.find_element(By.ID, "to-overview").click()
    judged("p", "#films button", "button")
    assert {node["name"] for node in tree(page)} >= {"film 1, begun", "film 2, open"}


CONTROLS = {"button", "radio", "checkbox", "textbox", "combobox", "slider", "spinbutton", "image"}


def tree(page: Browser) -> list[dict[str, Any]]:
    """Returns role and name of what assistive software is told of."""
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        {"role": node["role"]["value"], "name": node.get("name", {}).get("value", "")}
        for node in nodes
        if not node["ignored"]
    ]
