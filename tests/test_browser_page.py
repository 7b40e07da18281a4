"""The demo's page in Chromium: the points of the Python detector, and all user actions."""

import base64
import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from landmarks_jax import load_detector
from landmarks_jax.data.decoding import decode
from landmarks_jax.data.framing import stretch
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.inference import packed_file
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.models.detectors import build_detector
from landmarks_jax.system import palette
from tests import browsing, packing
from tests.browsing import Page
from tests.detecting import (
    BAD_EXIF,
    BEST,
    STORED,
    XMP,
    add_chunk,
    exif_entry,
    large_texts,
    save_bad_exif,
    save_rotated,
)
from tests.running import command

pytestmark = pytest.mark.slow

FACES = SyntheticFaces(5, 4, 300)
NAMES = ("left eye", "right eye")


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory, narrow_config, filled):
    """A detector with random weights; with statistics of faces its points depend on the image."""
    config = narrow_config(compute_dtype="float32", model__beta=20.0)
    module = build_detector(config)
    variables = filled(module, (1, 32, 32, 3), seed=2, use_running_average=True)
    views = np.stack([stretch(FACES.photo(i), (30, 30, 270, 270), 32) for i in range(4)]) / 255

    @jax.jit
    def step(variables):
        _, updated = module.apply(
            variables, views, use_running_average=False, mutable=["batch_stats"]
        )
        return {**variables, **updated}

    for _ in range(60):
        variables = step(variables)
    matrix = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 6))
    regressor = LinearMap(matrix, np.zeros(6), np.array([-0.3, 0.1, 0.3, 0.1]))
    path = tmp_path_factory.mktemp("packed") / "random.safetensors"
    summary = {"point_names": list(NAMES), "scores": [{**packing.SCORE, "forward": 12.34}]}
    packed = packed_file.PackedDetector(
        packed_file.inference_config(config), variables, regressor, summary
    )
    packed_file.write(path, packed, "float16")
    return path


@pytest.fixture(scope="module")
def find(detector_file):
    """The Python detector on files, which the page must agree with."""
    loaded = load_detector(detector_file)

    def points(path: Path, box=None) -> list[np.ndarray]:
        output = loaded(decode(path)[0], box)
        return [output.landmarks, output.labelled, output.confidence]

    return points


@pytest.fixture(scope="module")
def site_folder(detector_file, tmp_path_factory):
    """What `demo.py --build` makes."""
    return browsing.build(detector_file, tmp_path_factory.mktemp("site") / "page")


@pytest.fixture(scope="module")
def url(site_folder):
    with browsing.served(site_folder) as served:
        yield served


@pytest.fixture
def page(browser, url, home):
    """The page, freshly opened and ready."""
    return Page(browser, url, home).wait_for("The detector is ready.")


@pytest.fixture(scope="module")
def images(home):
    """Images of several kinds, by name."""
    folder = home / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    wide = Image.fromarray(FACES.photo(0)[30:270])
    wide.save(folder / "wide.png")
    Image.fromarray(FACES.photo(1)[:, 60:240]).save(folder / "tall.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    Image.fromarray(FACES.photo(2)).save(folder / "rotated.jpg", quality=95, exif=rotated)
    clear = np.dstack([FACES.photo(3), rng.integers(0, 256, (300, 300), np.uint8)])
    Image.fromarray(clear).save(folder / "clear.png")
    wide.convert("L").resize((50, 40)).save(folder / "small grey, of few pixels.png")
    return {path.name: path for path in folder.iterdir()}


def close(actual, expected, pixels=1.0):
    for got, want, tolerance in zip(actual, expected, (pixels, pixels, 0.02), strict=False):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def test_named_landmarks_are_saved_by_name(site_folder, browser, home, images, tmp_path):
    """The page with names in its description, beside the same without."""
    folder = shutil.copytree(site_folder, tmp_path / "page")
    description = json.loads((folder / "model.json").read_text())
    assert description["landmark_names"] == []
    description["landmark_names"] = ["tip, left", "root", "tip right"]
    (folder / "model.json").write_text(json.dumps(description))
    with browsing.served(folder) as served:
        page = Page(browser, served, home).wait_for("The detector is ready.")
        page.choose(images["wide.png"]).wait_for("Points found")
        (entry,) = page.entries()
        (row,) = csv.DictReader(page.saved("csv").splitlines())
        assert [cells[0] for cells in page.table()] == description["landmark_names"]
    assert list(entry["landmarks"]) == list(entry["confidence"]) == description["landmark_names"]
    assert [float(row[f"tip_right_{axis}"]) for axis in "xy"] == entry["landmarks"]["tip right"]
    assert float(row["tip,_left_c"]) == entry["confidence"]["tip, left"]
    assert "x1" not in row


def test_the_page_agrees_with_python(page, images, find):
    assert not page.part("find").is_displayed()
    page.choose(*images.values()).wait_for("Points found in 5 images.")
    actual = page.points()
    expected = {name: find(path) for name, path in images.items()}
    assert list(actual) == list(images)
    for name in actual:
        close(actual[name], expected[name], 0.5)
    # Not trivially: the points differ between images, and from one another.
    normalised = np.array([expected[n][0] / decode(p)[0].shape[1::-1] for n, p in images.items()])
    assert np.ptp(normalised, 0).max() > 0.1
    assert np.ptp(normalised, 1).min() > 0.04
    # More closely for lossless files.
    for name in ("wide.png", "tall.png"):
        close(actual[name], expected[name], 0.01)

    header, *lines = csv.reader(page.saved("csv").splitlines())
    assert header == [
        *("file", "x1", "y1", "c1", "x2", "y2", "c2", "x3", "y3", "c3"),
        *("left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y"),
    ]
    for name, *cells in lines:
        landmarks, labelled, confidence, _ = actual[name]
        both = np.concatenate([np.c_[landmarks, confidence].ravel(), labelled.ravel()])
        np.testing.assert_array_equal(np.array(cells, float), both)

    assert (
        "12.3 % of the distance between the first two (of faces, the eyes)"
        in page.part("about").text
    )
    first = actual[next(iter(images))]
    pairs = zip(first[0], first[2], strict=True)
    texts = [[f"{x:.1f}", f"{y:.1f}", f"{c:.2f}"] for (x, y), c in pairs]
    assert [row[1:] for row in page.table()] == texts
    page.part("labelled").click()
    assert [row[0] for row in page.table()][3:] == [f"\u00d7{name}" for name in NAMES]


def test_every_orientation_and_format_is_shown_as_python_shows_it(page, find, images, home):
    folder, image = home / "rotated", FACES.photo(0)[30:270]
    folder.mkdir()
    for ending in (".png", ".jpg", ".webp", ".avif"):
        for tag in STORED:
            save_rotated(folder / f"{tag}{ending}", image, tag)
        for name, exif in BAD_EXIF.items():
            save_bad_exif(folder / f"{name}{ending}", image, exif)
        if ending != ".png":
            options = BEST[ending]
            Image.fromarray(image).save(folder / f"xmp{ending}", xmp=XMP, **options)
    for kind, data in large_texts():
        add_chunk(folder / f"{kind.decode()}.png", image, kind, data)
    exif = exif_entry(3, 1, b"\0\6")
    add_chunk(folder / "last.png", image.swapaxes(0, 1)[::-1], b"eXIf", exif, before=b"IEND")
    add_chunk(folder / "wrong checksum.png", image, b"eXIf", exif, checksum=0)
    paths = {path.name: path for path in folder.iterdir()}
    page.choose(*paths.values()).wait_for(f"Points found in {len(paths)} images.")
    actual = page.points()
    upright = find(images["wide.png"])
    for name, path in paths.items():
        close(actual[name], find(path), 0.05)
        # This detector's points are sensitive to losses; a rotation moves them by 20 and more.
        close(actual[name][:2], upright, 5.0 if path.suffix in {".jpg", ".avif"} else 0.01)


def test_unreadable_files_are_named(page, images, home):
    (home / "notes.txt").write_text("not an image")
    broken = home / "broken.png"
    broken.write_bytes(images["wide.png"].read_bytes()[:60])
    page.choose(home / "notes.txt", broken)
    page.wait_for("broken.png is not an image that this browser can read.")
    page.wait_for("notes.txt is not an image that this browser can read.")
    assert not page.part("work").is_displayed()
    assert page.part("messages").get_attribute("aria-live") == "polite"
    page.choose(home / "notes.txt", images["wide.png"]).wait_for("Points found in 1 image.")
    assert "notes.txt is not" in page.part("messages").text
    page.part("remove").click()
    assert not page.part("work").is_displayed()


@pytest.mark.parametrize(
    "event",
    [
        "DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })",
        "ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })",
    ],
    ids=["drop", "paste"],
)
def test_images_are_dropped_and_pasted(page, images, find, event):
    page.run(
        f"""const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], 'given.png'));
        document.body.dispatchEvent(new {event});""",
        base64.b64encode(images["wide.png"].read_bytes()).decode(),
    )
    page.wait_for("Points found in 1 image.")
    close(page.points()["given.png"], find(images["wide.png"]))


def test_the_camera_gives_points_and_a_rate(page, find, home):
    page.part("camera").click()
    page.wait_for("The camera is on.")
    page.until(lambda: rate(page) > 0, "frames")
    assert all(all(row[1:]) for row in page.table())
    assert len(page.part("device").find_elements("tag name", "option")) >= 1
    before = page.run("return document.getElementById('image').toDataURL()")
    page.part("mirror").click()
    now = "return document.getElementById('image').toDataURL()"
    page.until(lambda: page.run(now) != before, "another frame")

    page.part("keep").click()
    page.wait_for("was added.")
    page.part("camera").click()
    page.until(lambda: page.part("remove").is_displayed(), "the kept image")
    [(name, (landmarks, _, _, box))] = page.points().items()
    assert name.startswith("camera-")
    width, height = page.run(
        "const c = document.querySelector('#images canvas'); return [c.width, c.height]"
    )
    assert box[2] / box[3] == pytest.approx(width / height, rel=0.02)
    assert np.isfinite(landmarks).all()


def rate(page) -> float:
    """Frames a second, as the page says."""
    return float((page.part("rate").text or "0").split()[0])


def test_a_denied_camera_is_reported(page):
    page.run(
        "navigator.mediaDevices.getUserMedia = async () => {"
        "  throw new DOMException('no', 'NotAllowedError'); };"
    )
    page.part("camera").click()
    page.wait_for("Access to the camera was denied. Allow it for this page")
    assert page.part("camera").text == "Start camera"


# Cameras wait for `allow()`, and their tracks are in `tracks`.
ASK = """
const media = navigator.mediaDevices;
const ask = media.getUserMedia.bind(media);
window.tracks = [];
media.getUserMedia = (wanted) => new Promise((resolve) => {
  window.allow = async () => {
    const stream = await ask(wanted);
    tracks.push(...stream.getTracks());
    resolve(stream);
  };
});
"""


def test_a_camera_allowed_too_late_is_closed(page, images):
    page.run(ASK)
    page.part("camera").click()
    page.wait_for("The camera starts")
    page.choose(images["wide.png"]).wait_for("Points found in 1 image.")
    page.run("allow()")
    page.until(lambda: page.run("return tracks.length"), "the camera")
    off = "return tracks.every((track) => track.readyState === 'ended')"
    page.until(lambda: page.run(off), "the camera to be off")
    assert page.part("remove").is_displayed()


def test_after_a_camera_stops_by_itself_an_image_is_shown(page, images):
    page.choose(images["wide.png"]).wait_for("Points found in 1 image.")
    page.run(ASK)
    page.part("camera").click()
    page.wait_for("The camera starts")
    page.run("allow()")
    page.wait_for("The camera is on.")
    page.run("tracks[0].dispatchEvent(new Event('ended'))")
    page.wait_for("The camera has stopped.")
    page.until(lambda: page.part("remove").is_displayed(), "the image")
    assert page.part("image").get_attribute("aria-label") == "wide.png"
    assert page.run("return tracks[0].readyState") == "ended"


def test_a_model_that_cannot_be_loaded_is_reported(browser, site_folder, tmp_path, home):
    shutil.copytree(site_folder, tmp_path / "page")
    (tmp_path / "page" / "model.onnx").write_bytes(b"no model")
    with browsing.served(tmp_path / "page") as url:
        Page(browser, url, home).wait_for("The detector cannot be loaded: ")
        (tmp_path / "page" / "model.onnx").unlink()
        Page(browser, url, home).wait_for("cannot be loaded: model.onnx: 404")


def test_a_detector_of_boxes_asks_for_a_frame(browser, site_folder, tmp_path, home, images):
    shutil.copytree(site_folder, tmp_path / "page")
    description = tmp_path / "page" / "model.json"
    description.write_text(description.read_text().replace('"center"', '"box"'))
    with browsing.served(tmp_path / "page") as url:
        page = Page(browser, url, home).wait_for("ready")
        page.choose(images["wide.png"]).wait_for("Points found")
        assert page.points()["wide.png"][3] == [0, 0, 300, 240]
        assert "trained on boxes around the object" in page.part("boxed").text
        page.part("frame").send_keys("-")
        page.until(lambda: not page.part("boxed").is_displayed(), "the note to go")


def test_the_frame_follows_keyboard_and_pointer(page, images, find):
    from selenium.webdriver import ActionChains, Keys  # noqa: PLC0415

    path = images["wide.png"]  # 300 x 240
    page.choose(path).wait_for("Points found")
    assert page.points()[path.name][3] == [30, 24, 270, 216]  # the central four fifths

    for _ in range(30):
        if page.run("return document.activeElement.id") == "frame":
            break
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
    frame = page.part("frame")
    assert page.browser.switch_to.active_element == frame
    frame.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)  # 6 pixels each
    frame.send_keys(Keys.SHIFT, Keys.ARROW_LEFT, Keys.ARROW_UP)  # 12 pixels each
    frame.send_keys("-")
    wide, high = 228 / 1.05, 180 / 1.05
    box = [162 - wide / 2, 114 - high / 2, 162 + wide / 2, 114 + high / 2]
    agree(page, path, box, find)
    frame.send_keys("+")
    agree(page, path, [48, 24, 276, 204], find)
    frame.send_keys(*30 * [Keys.ARROW_DOWN])
    agree(page, path, [48, 60, 276, 240], find)  # not beyond the image

    scale = page.run("return document.getElementById('stage').clientWidth / 300")
    drag = ActionChains(page.browser).click_and_hold(frame)
    drag.move_by_offset(round(-30 * scale), round(-20 * scale)).release().perform()
    agree(page, path, [18, 40, 246, 220], find, within=2 / scale)
    corner = page.browser.find_element("css selector", "#frame [data-x='1'][data-y='-1']")
    drag = ActionChains(page.browser).click_and_hold(corner)
    drag.move_by_offset(round(-40 * scale), round(25 * scale)).release().perform()
    agree(page, path, [18, 65, 206, 220], find, within=4 / scale)
    page.part("reset").click()
    agree(page, path, [30, 24, 270, 216], find)


def agree(page, path, box, find, within=0.01):
    """Waits until the frame is `box`, with the points that Python finds there."""

    def agreed():
        actual = page.points()[path.name]
        expected = find(path, actual[3])
        return np.abs(np.subtract(actual[3], box)).max() < within and all(
            np.abs(got - want).max() < 0.5 for got, want in zip(actual, expected, strict=False)
        )

    page.until(agreed, f"the frame {box} and its points")


def test_the_resize_is_that_of_python(page):
    rng = np.random.default_rng(0)
    for width, height in ((64, 64), (300, 200), (37, 80), (1, 1), (5, 400), (320, 240)):
        photo = rng.integers(0, 256, (height, width, 3), np.uint8)
        boxes = [
            (0, 0, width, height),
            (0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height),
            (-0.3 * width, 0.2 * height, 0.4 * width, 1.7 * height),
            (0.33 * width, 0.41 * height, 0.37 * width, 0.45 * height),
        ]
        cases = [(box, size) for box in boxes for size in (16, 64)]
        rgba = np.dstack([photo, np.full((height, width), 255, np.uint8)])
        results = page.browser.execute_async_script(
            """const [data, width, height, cases, done] = arguments;
            const image = { data: Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), width,
              height };
            import(new URL('resize.js', document.baseURI)).then(({ stretch }) => done(
              cases.map((given) => btoa(String.fromCharCode(...stretch(image, ...given))))));""",
            *(base64.b64encode(rgba.tobytes()).decode(), width, height, cases),
        )
        for (box, size), result in zip(cases, results, strict=True):
            got = np.frombuffer(base64.b64decode(result), np.uint8).reshape(size, size, 3)
            named = f"{width} x {height}, {box} to {size}"
            np.testing.assert_array_equal(got, stretch(photo, box, size), named)


def test_dots_of_many_landmarks_and_of_small_views_are_smaller(page):
    draw = """const [count, scale, side, done] = arguments;
        import(new URL('draw.js', document.baseURI)).then(({ draw }) => {
          const [target, image] = [0, 1].map(() => document.createElement('canvas'));
          [target, image].forEach((canvas) => { canvas.width = canvas.height = 400; });
          const landmarks = Array.from({ length: count }, (_, i) =>
            [40 + 32 * (i % 10), 40 + 70 * Math.floor(i / 10)]);
          const found = { landmarks, labelled: [], confidence: landmarks.map(() => 1) };
          const colors = landmarks.map(() => '#ff0000');
          const whole = [0, 0, 400, 400];
          found.rectangle = [0, 0, side, side];
          draw(target, image, whole, [found], { colors, dot_scale: scale }, {}, 1);
          const pixels = target.getContext('2d').getImageData(0, 0, 400, 400).data;
          const red = (v, i) => i % 4 === 0 && v === 255 && !pixels[i + 1];
          const at = ([x, y]) => 4 * (400 * y + x);
          done([...landmarks.map((point) => [...pixels.slice(at(point), at(point) + 3)]),
            [pixels.filter(red).length]]);
        });"""
    # A radius of 5 pixels, and less in crowds and in views of less than 180 pixels.
    for count, side, whole in ((10, 400, 5), (30, 400, 5), (50, 400, 5), (10, 108, 3)):
        scale = palette.crowding(count)
        *dots, (red,) = page.browser.execute_async_script(draw, count, scale, side)
        assert dots == [[255, 0, 0]] * count
        # The rim's soft pixels are not counted.
        assert np.pi * (scale * whole - 0.7) ** 2 < red / count < np.pi * (scale * whole) ** 2


def test_a_phone_needs_no_sideways_scrolling(page, images):
    page.choose(*images.values()).wait_for("Points found")
    page.part("labelled").click()
    for width in (360, 1200):
        metrics = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": False}
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        page.until(lambda width=width: page.run("return innerWidth") == width, "that width")
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.run("return document.getElementById('stage').clientWidth") > 300


def test_no_other_host_is_contacted(browser, url, home, images):
    browsing.hosts(browser)
    page = Page(browser, url, home).wait_for("ready")
    page.choose(images["wide.png"]).wait_for("Points found")
    assert browsing.hosts(browser) == {url.split("/")[2]}
    # The page's policy forbids it.
    broken = page.browser.execute_async_script(
        """const [url, done] = arguments;
        document.addEventListener('securitypolicyviolation', (e) => done(e.effectiveDirective));
        fetch(url).then(() => done('fetched'), () => {});""",
        url.replace("127.0.0.1", "localhost"),
    )
    assert broken == "connect-src"


def test_any_web_host_and_path_works(browser, site_folder, home, images, find):
    """Without the headers that allow threads, and below a path."""
    start = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", str(site_folder.parent)]
    process = command("-u", *start, "0")
    try:
        port = process.stdout.readline().split("port ")[1].split()[0]
        page = Page(browser, f"http://127.0.0.1:{port}/{site_folder.name}/", home)
        page.wait_for("The detector is ready.")
        assert page.run("return crossOriginIsolated") is False
        page.choose(images["tall.png"]).wait_for("Points found in 1 image.")
        close(page.points()["tall.png"], find(images["tall.png"]), 0.1)
    finally:
        process.terminate()
        process.communicate(timeout=30)
