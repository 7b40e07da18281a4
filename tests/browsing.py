"""Real Chromium for the demo's tests: found on the machine, headless, with every request noted."""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
except ImportError:
    webdriver = None  # type: ignore[assignment]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What runs as root, without a graphics card, and lets the browser itself reach for no other host.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--force-color-profile=srgb"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


def missing(what: str) -> None:
    """Skips, saying what is missing; fails where it should be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def open_browser(folder: Path) -> "webdriver.Chrome":
    """Starts Chromium with a profile of its own below `folder`; downloads go to folder/downloads."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        missing("chromium or chromedriver is not installed (Debian: chromium, chromium-driver)")
    if webdriver is None:
        missing("selenium is not installed (extra `test`)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder / "downloads")}
    )
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options, Service(driver))


def hosts(browser: "webdriver.Chrome") -> set[str]:
    """Host and port of every request since the last call."""
    entries = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        urlsplit(entry["params"]["request"]["url"])
        for entry in entries
        if entry["method"] == "Network.requestWillBeSent"
    ]
    return {url.netloc for url in urls if url.scheme in ("http", "https", "ws", "wss")}
