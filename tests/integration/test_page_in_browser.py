"""The page in a real browser: Debian's Chromium, headless, driven by selenium.

Without ``chromium`` and ``chromedriver`` (apt-get install chromium chromium-driver) these tests are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from benchmarks.made_release import PATHOLOGIES, publish_made
from medsynth_core.evaluation.page.gallery import GalleryImage, Neighbour, gallery_rows, read_images
from medsynth_core.evaluation.page.rejected import rejected_images
from medsynth_core.evaluation.page.render import PageContent, write_page
from medsynth_core.release import open_release
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config
from tests.chromium import DESKTOP, PHONE, Browser, asked_for, contrast, opened, started

pytestmark = pytest.mark.integration
N_IMAGES = 30


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> PageContent:
    """Thirty accepted images and six rejected ones of a made-up release, with all sections filled."""
    root = tmp_path_factory.mktemp("team")
    store = LocalStore(root / "store")
    config = Config().model_copy(update={"store": StoreConfig(url=str(store.root))})
    init_workspace(root / "workspace", config)
    publish_made(config, workspace_paths(root / "workspace"), store, "a" * 32, (18, 18), n_rejected=3)
    release = open_release(root / "workspace")
    rows = gallery_rows(release, N_IMAGES)
    gallery = []
    for number, (row, image) in enumerate(zip(rows, read_images(release, rows), strict=True)):
        words = {"prompt": f"Drawing number {number:02} of a chest.", "keypatch_words": ["lung", "base"]}
        gallery.append(GalleryImage(row | words, image, (0, 3), Neighbour(image, 0.01)))
    figure = {"metric": "kid", "extractor": "classifier", "n": 30, "n_held_out": 30, "value": 1.0, "real": 0.5}
    labels = [None, *PATHOLOGIES]
    private = {"metric": "near_copies", "space": "pixels", "value": 0.1, "low": 0.0, "high": 0.2, "real": 0.1}
    sides = {"edges": [0.0, 0.5, 1.0], "synthetic": [0.5, 0.5], "held_out": [0.25, 0.75]}
    release.info["privacy"] = {"figures": [private], "histograms": {"pixels": sides}}
    worth = {"setting": "real", "real_share": 1.0, "n_real": 9, "n_synthetic": 0, "auroc": 0.5}
    worth |= {"rare": None, "tested_on": "held-out", "calibration_error": [0.1, 0.0, 0.2]}
    return PageContent(
        release,
        gallery,
        rejected_images(release, 12),
        2,
        "Beside each: the nearest.",
        evaluation={"n_synthetic": 30, "n_held_out": 30, "figures": [figure | {"label": name} for name in labels]},
        utility={"seeds": 2, "steps": 1, "rows": [worth | {"interval": [0.4, 0.6], "gains": {}}]},
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


@pytest.fixture
def page(browser: Browser, content: PageContent, tmp_path: Path) -> Browser:
    """The page, opened on a desktop."""
    write_page(content, tmp_path / "report.html")
    return opened(browser, tmp_path / "report.html", DESKTOP)


def shown(page: Browser, gallery: str = "gallery") -> list[WebElement]:
    return [each for each in page.find_elements(By.CSS_SELECTOR, f"#{gallery} figure") if each.is_displayed()]


def chosen(page: Browser, name: str, value: str) -> list[dict[str, str]]:
    """Chooses a value and returns the labels of the images that are left."""
    Select(page.find_element(By.CSS_SELECTOR, f"#filters [name={name}]")).select_by_value(value)
    return [json.loads(each.get_dom_attribute("data-labels") or "") for each in shown(page)]


def matching(page: Browser) -> int:
    return int(page.find_element(By.ID, "shown").text.split()[0])


def test_it_loads_all_images_asks_for_nothing_and_logs_nothing(page: Browser) -> None:
    images = page.find_elements(By.TAG_NAME, "img")
    assert len(images) == 2 * N_IMAGES + 6
    assert page.execute_script("return [...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    asked = asked_for(page)
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in asked) == 1
    shown(page)[0].find_element(By.CLASS_NAME, "open").click()
    assert page.get_log("browser") == []


def test_filters_leave_what_was_asked_for(page: Browser, content: PageContent) -> None:
    assert matching(page) == N_IMAGES
    left = [image for image in content.gallery if any(label["side"] == "left" for label in image.row["labels"])]
    some = left[0].row["labels"][0]["pathology"]
    assert len(chosen(page, "side", "left")) == matching(page) == len(left)
    both = chosen(page, "finding", some)
    assert all([some, "left", ""] in labels for labels in both)
    assert len(both) == sum(image.row["labels"][0]["pathology"] == some for image in left)
    page.find_element(By.CSS_SELECTOR, "#filters [type=reset]").click()
    assert matching(page) == N_IMAGES
    words = page.find_element(By.CSS_SELECTOR, "#filters [name=words]")
    words.send_keys("CHEST number 07")
    assert [figure.find_element(By.TAG_NAME, "p").text for figure in shown(page)] == ["Drawing number 07 of a chest."]
    words.send_keys(" nothing")
    assert shown(page) == []


def test_a_label_meets_all_choices_at_once(browser: Browser, content: PageContent, tmp_path: Path) -> None:
    """Finding and side were once looked for apart, so that a right effusion with a left nodule was a left effusion."""
    two = [{"pathology": "effusion", "side": "right"}, {"pathology": "nodule", "side": "left"}]
    labels = [{**label, "anatomy": None, "severity": None} for label in two]
    first = replace(content.gallery[0], row=content.gallery[0].row | {"labels": labels})
    write_page(replace(content, gallery=[first]), tmp_path / "report.html")
    page = opened(browser, tmp_path / "report.html", DESKTOP)
    chosen(page, "finding", "effusion")
    assert len(chosen(page, "side", "right")) == 1
    assert chosen(page, "side", "left") == []


def test_images_are_ordered_and_bounded_by_their_scores(page: Browser) -> None:
    def agreements() -> list[float]:
        return [
            json.loads(each.get_dom_attribute("data-scores") or "{}").get("score_agreement", float("nan"))
            for each in shown(page)
        ]

    chosen(page, "order", "down:score_agreement")
    best = agreements()
    assert best == sorted(best, reverse=True)
    chosen(page, "order", "up:score_agreement")
    worst = agreements()
    assert worst == sorted(worst)
    slider = page.find_element(By.CSS_SELECTOR, "#filters [name=score_agreement]")
    slider.send_keys(Keys.END)
    assert matching(page) < N_IMAGES
    assert min(agreements()) >= float(slider.get_property("value") or "nan")  # type: ignore[arg-type]
    slider.send_keys(Keys.HOME)
    assert matching(page) == N_IMAGES


def test_more_images_are_shown_on_demand(page: Browser) -> None:
    assert len(shown(page)) == 24
    page.find_element(By.ID, "more").click()
    assert len(shown(page)) == N_IMAGES
    assert not page.find_element(By.ID, "more").is_displayed()


def test_keypatches_are_laid_over_the_images(page: Browser) -> None:
    mark = page.find_element(By.CSS_SELECTOR, "#gallery rect")
    assert not mark.is_displayed()
    page.find_element(By.ID, "keys").click()
    assert mark.is_displayed()
    picture = page.find_element(By.CSS_SELECTOR, "#gallery .picture").rect
    assert mark.rect["width"] == pytest.approx(picture["width"] / 2, abs=2), "a cell of a grid of two"
    assert mark.rect["x"] == pytest.approx(picture["x"], abs=2)
    page.find_element(By.ID, "keys").click()
    assert not mark.is_displayed()


def test_an_image_is_enlarged_and_the_next_one_follows_by_keyboard(page: Browser) -> None:
    dialog = page.find_element(By.ID, "large")
    assert not dialog.is_displayed()
    shown(page)[0].find_element(By.CLASS_NAME, "open").send_keys(Keys.ENTER)
    assert "Drawing number 00 " in dialog.text
    assert "contrast in grey levels" in dialog.text, "all scores"
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "Drawing number 01 " in dialog.text
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_rejected_images_are_filtered(page: Browser) -> None:
    assert len(shown(page, "rejected-images")) == 6
    Select(page.find_element(By.CSS_SELECTOR, "#reasons [name=reason]")).select_by_value("dull")
    assert len(shown(page, "rejected-images")) == 6
    page.find_element(By.CSS_SELECTOR, "#reasons [name=words]").send_keys("elephant")
    assert shown(page, "rejected-images") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_it_fits_the_screen_and_can_be_read(
    browser: Browser, content: PageContent, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    write_page(content, tmp_path / "report.html")
    page = opened(browser, tmp_path / "report.html", size, scheme)
    for details in page.find_elements(By.TAG_NAME, "summary"):
        details.click()
    assert page.execute_script("return document.documentElement.scrollWidth") <= size[0]
    for selector in ("p", ".quiet", "small", "a", ".key", ".badge.accepted", ".badge.rejected", "select", "dt"):
        assert contrast(page, page.find_element(By.CSS_SELECTOR, selector)) >= 4.5, selector
    shown(page)[0].find_element(By.CLASS_NAME, "open").click()
    dialog = page.find_element(By.ID, "large")
    assert dialog.rect["width"] <= size[0]
    assert dialog.get_property("scrollWidth") <= dialog.get_property("clientWidth")  # type: ignore[operator]
