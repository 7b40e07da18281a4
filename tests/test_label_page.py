"""The page that labels, in Chromium: from a folder of photos to a file, killed and continued."""

import contextlib
import signal

import numpy as np
import pytest
from PIL import Image, ImageDraw

from landmarks_jax.data.formats import deeplabcut
from landmarks_jax.data.sources import registry
from tests.browsing import Page
from tests.detecting import save_rotated
from tests.running import command

try:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
except ImportError:
    pass

pytestmark = pytest.mark.slow

SIZE = (240, 160)


@pytest.fixture(name="photos")
def drawn_photos(tmp_path):
    """Three pictures, each with a red square; the second is stored rotated."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate("abc"):
        image = Image.new("RGB", SIZE, (40 + 60 * i, 160 - 40 * i, 90))
        ImageDraw.Draw(image).rectangle((60 + 20 * i, 40, 79 + 20 * i, 59), "red")
        if name == "b":
            save_rotated(folder / "b.jpg", np.asarray(image), 6)
        else:
            image.save(folder / f"{name}.png")
    return folder


@contextlib.contextmanager
def labelling(browser, photos, out):
    """The page of a new process."""
    words = ("--points=tip,base,tail", f"--out={out}", "--port=0")
    process = command("label", str(photos), *words, XDG_CACHE_HOME=str(out.parent / "cache"))
    line = process.stdout.readline()
    assert "shows the page" in line, process.stderr.read()
    try:
        page = LabelPage(browser, line.split()[0], out.parent)
        page.until(lambda: page.part("photo").get_attribute("data-ready"), "the photo")
        yield page, process
    finally:
        process.kill()
        process.communicate()


class LabelPage(Page):
    """What a user does on the page, while the photo is shown as a whole."""

    def offset(self, point):
        """The CSS pixel of a point of the photo, from the middle of the canvas."""
        self.run("document.getElementById('photo').scrollIntoView()")
        scale, _ = self.view()
        middle = np.array(SIZE) / 2 - 0.5  # the centre of the first pixel is 0, 0
        return np.rint((np.array(point) - middle) * scale).astype(int).tolist()

    def view(self):
        """CSS pixels of a pixel of the photo, and the photo's upper left corner in the window."""
        box = "const r = document.getElementById('photo').getBoundingClientRect();"
        left, top, width, height = self.run(f"{box} return [r.left, r.top, r.width, r.height]")
        scale = min(width / SIZE[0], height / SIZE[1])
        corner = [left + (width - scale * SIZE[0]) / 2, top + (height - scale * SIZE[1]) / 2]
        return scale, np.array(corner)

    def click(self, point):
        """Clicks at a point of the photo; returns the exact point clicked."""
        self.run("onpointerdown = (event) => window.mouse = [event.clientX, event.clientY]")
        actions = ActionChains(self.browser, 0)
        actions.move_to_element_with_offset(self.part("photo"), *self.offset(point))
        actions.click().perform()
        scale, corner = self.view()
        return (np.array(self.run("return window.mouse")) - corner) / scale - 0.5

    def drag(self, start, end):
        """Drags by the mouse; returns by how much, in pixels of the photo."""
        offset, other = self.offset(start), self.offset(end)
        by = np.subtract(other, offset)
        actions = ActionChains(self.browser, 0)
        actions.move_to_element_with_offset(self.part("photo"), *offset)
        actions.click_and_hold().move_by_offset(*by.tolist()).release().perform()
        return by / self.view()[0]

    def scroll(self, point, amount):
        origin = ScrollOrigin.from_element(self.part("photo"), *self.offset(point))
        ActionChains(self.browser, 0).scroll_from_origin(origin, 0, amount).perform()

    def press(self, *keys):
        ActionChains(self.browser, 0).send_keys(*keys).perform()

    def cells(self):
        """The coordinates of the points that are set, and the words of the others."""
        rows = [row[1:] for row in self.table()]
        return [[float(x), float(y)] if y else x for x, y in rows]

    def name(self):
        """The name of the photo shown."""
        return self.part("place").text.split(": ")[1].removesuffix(", saved")

    def shows(self, place):
        ready = "return document.getElementById('photo').dataset.ready"
        return self.until(lambda: place in self.part("place").text and self.run(ready), place)


def near(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.011)


def test_from_a_folder_to_labels_killed_and_continued(browser, photos, tmp_path):
    out = tmp_path / "labels.csv"
    with labelling(browser, photos, out) as (page, process):
        names = [page.name()]
        first = [page.click((69.5, 49.5)), page.click((120, 80))]
        near(page.cells()[:2], first)
        assert page.cells()[2] == ""
        assert not out.exists()
        page.press("m")
        page.wait_for("1 of 3 photos are labelled.")
        page.press("n")
        page.shows("Photo 2 of 3")
        names.append(page.name())
        second = [page.click(point) for point in ((10, 20), (200, 30), (120, 110))]
        page.wait_for("2 of 3 photos are labelled.")
        page.part("next").click()
        page.shows("Photo 3 of 3")
        names.append(page.name())
        page.click((30, 30))
        process.send_signal(signal.SIGKILL)
        process.wait()
        page.press("m", "m")
        page.wait_for("is not saved")
        page.press("u")  # else the browser would ask before it leaves the page

    with labelling(browser, photos, out) as (page, process):
        page.shows(f"Photo 3 of 3: {names[2]}")
        assert page.cells() == ["", "", ""]
        third = [page.click(point) for point in ((200, 20), (220, 100), (10, 110))]
        page.wait_for("3 of 3 photos are labelled.")
        page.press("p", "p")
        page.shows(f"Photo 1 of 3: {names[0]}, saved")
        near(page.cells()[:2], first)
        assert page.cells()[2] == "missing"

    assert sorted(names) == ["photos/a.png", "photos/b.jpg", "photos/c.png"]
    labels = deeplabcut.read(str(out))
    assert ([name for _, name in labels.entries], labels.names) == (names, ("tip", "base", "tail"))
    near(labels.points, [[*first, [np.nan, np.nan]], second, third])
    source = registry.open_labelled(str(out))
    assert [source.name(i) for i in range(len(source))] == names[1:]
    near(source.points(0), second)
    assert source.photo(0).shape == (*SIZE[::-1], 3)  # upright, also if it is the rotated one


def test_zoom_drags_arrow_keys_and_undo(browser, photos, tmp_path):
    with labelling(browser, photos, tmp_path / "labels.csv") as (page, _):
        tip = page.click((69.5, 49.5))
        base = page.click((120, 80))
        page.press("u")
        page.scroll((120, 80), -300)  # keeps the place under the mouse
        page.click((120, 80))
        near(page.cells()[1], base)
        page.part("fit").click()
        moved = tip + page.drag(tip, (20, 100))
        near(page.cells()[0], moved)
        page.press(Keys.ARROW_LEFT)
        near(page.cells()[0], moved - [1, 0])
        actions = ActionChains(page.browser, 0).key_down(Keys.SHIFT)
        actions.send_keys(Keys.ARROW_UP).key_up(Keys.SHIFT).perform()
        near(page.cells()[0], moved - [1, 10])
        page.press("u", "u")
        near(page.cells()[0], moved)
        page.press("u")
        near(page.cells()[0], tip)
        by = page.drag((60, 120), (90, 90))  # beside the points: moves the photo
        page.press("3")
        clicked = page.click((150, 90))
        near(page.cells()[2], clicked - by)
        page.press("u", "3", "0", Keys.ENTER)
        near(page.cells()[2], [119.5, 79.5])
        name, start, end = page.name(), page.offset(tip), page.offset((40, 120))
        actions = ActionChains(page.browser, 0)
        actions.move_to_element_with_offset(page.part("photo"), *start).click_and_hold()
        actions.send_keys("n", "u").move_by_offset(*np.subtract(end, start).tolist())
        actions.release().perform()
        assert page.name() == name
        near(page.cells()[0], tip + np.subtract(end, start) / page.view()[0])
