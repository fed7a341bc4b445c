"""Debian's Chromium, headless, driven by selenium: how pages are opened and looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

PHONE, DESKTOP = (390, 844), (1200, 900)
Browser = webdriver.Chrome


def started() -> Iterator[Browser]:
    """Yields a browser; skips the test where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver here; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, Service(driver))
    yield browser
    browser.quit()


def opened(browser: Browser, path: Path, size: tuple[int, int], scheme: str = "light") -> Browser:
    """Opens a page in a window of a size and a colour scheme; what was logged before is forgotten."""
    browser.get_log("browser")
    browser.get_log("performance")
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(path.as_uri())
    return browser


def asked_for(browser: Browser) -> set[str]:
    """Returns the addresses that were asked for since this was last called or a page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}


def contrast(page: Browser, element: WebElement) -> float:
    """Returns the contrast of text to its ground, as WCAG 2 has it."""
    ground: Any = page.execute_script(
        """let at = arguments[0];
        while (at && /rgba\\(.*, 0\\)/.test(getComputedStyle(at).backgroundColor)) at = at.parentElement;
        return [getComputedStyle(arguments[0]).color, getComputedStyle(at || document.body).backgroundColor]""",
        element,
    )
    bright, dark = sorted((_luminance(colour) for colour in ground), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    values = np.array([float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
