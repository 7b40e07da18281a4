"""The demo's page in headless Chromium, for its tests, with a log of all requests."""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from landmarks_jax.inference.browser import server, vendor
from landmarks_jax.system.errors import WeightsError
from tests.running import call

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
except ImportError:
    webdriver = None  # type: ignore[assignment]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# For root, without a graphics card, and without requests of the browser itself.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--force-color-profile=srgb"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


SECONDS = 30  # timeout; most waits take a second, on a busy machine longer


def missing(what: str) -> None:
    """Skips with a reason; fails in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def open_browser(folder: Path) -> "webdriver.Chrome":
    """Starts Chromium with its own profile and a folder `downloads` below `folder`."""
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


def build(detector: Path, folder: Path) -> Path:
    """Builds the page of a detector in a new folder, by the command."""
    try:
        vendor.runtime()
    except WeightsError as error:
        missing(str(error))
    code, out, err = call("demo", str(detector), "--build", str(folder))
    assert code == 0, err
    assert str(folder) in out
    return folder


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a page meanwhile; its address."""
    with server.Server(folder, 0) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
        yield serving.url
        serving.shutdown()


def hosts(browser: "webdriver.Chrome") -> set[str]:
    """Host and port of every request since the last call."""
    entries = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        urlsplit(entry["params"]["request"]["url"])
        for entry in entries
        if entry["method"] == "Network.requestWillBeSent"
    ]
    return {url.netloc for url in urls if url.scheme in ("http", "https", "ws", "wss")}


class Page:
    """What a user does and sees on the demo's page."""

    def __init__(self, browser, url, home):
        self.browser, self.home = browser, home
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.get(url)

    def part(self, name):
        return self.browser.find_element("id", name)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def until(self, true, what):
        end = time.monotonic() + SECONDS
        while not true():
            if time.monotonic() > end:
                seen = [
                    self.part("messages").text,
                    self.part("place").text,
                    *self.browser.get_log("browser"),
                ]
                pytest.fail(f"timed out waiting for {what}; the page shows {seen}")
            time.sleep(0.05)
        return self

    def wait_for(self, message):
        return self.until(lambda: message in self.part("messages").text, repr(message))

    def choose(self, *paths):
        self.part("files").send_keys("\n".join(map(str, paths)))
        return self

    def saved(self, kind):
        """The text of the file that the button `kind` saves."""
        path = self.home / "downloads" / f"landmarks.{kind}"
        path.unlink(missing_ok=True)
        self.part(kind).click()
        # Chromium takes the name with an empty file, which the whole one replaces.
        self.until(lambda: path.exists() and path.stat().st_size > 0, path.name)
        return path.read_text()

    def entries(self):
        """The entries of the saved JSON."""
        return json.loads(self.saved("json"))["images"]

    def points(self):
        """By file: landmarks, labelled points, confidence and box."""
        return {
            entry["file"]: [
                np.array(entry["landmarks"]),
                np.array(list(entry["labelled"].values())),
                np.array(entry["confidence"]),
                entry["box"],
            ]
            for entry in self.entries()
        }

    def table(self):
        """The cells of the table of points."""
        rows = "return [...document.querySelectorAll('#points tr')].filter((row) => !row.hidden)"
        return self.run(f"{rows}.map((row) => [...row.cells].map((cell) => cell.textContent))")
