"""Labels of photos: which photos are chosen, the file, and the server of the page."""

import http.client
import json
import math
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data.photo_files import PhotoFile, usable_files
from landmarks_jax.data.sources import registry
from landmarks_jax.inference import api, photo_choice
from landmarks_jax.inference.browser import label_server
from landmarks_jax.inference.browser.label_session import Session
from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError
from tests.detecting import STORED, noise, save_rotated
from tests.running import call

NAMES = ("tip", "base, left")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(name="photos")
def three_photos(tmp_path) -> Path:
    """A folder of three photos, 12 x 10 pixels."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b, c.png", "sub/d.png")):
        Image.fromarray(noise(seed, 12, 10)).save(folder / name)
    return folder


def opened(folder: Path, out: Path, names=NAMES, count=20) -> Session:
    session = Session(out, names)
    session.choose(usable_files([str(folder)])[0], count, photo_choice.describer())
    return session


def named(session: Session) -> list[str]:
    return [photo.name for photo in session.photos]


# The choice.


def test_farthest_points_on_a_line():
    rows = np.array([[0.0], [1], [4], [5], [10]])
    # By hand: the mean is 4; farthest from 4 is 10, then 0, then 1 and 5 equally near: the first.
    assert photo_choice.farthest(rows, 5) == [2, 4, 0, 1, 3]
    assert photo_choice.farthest(rows, 2, [0, 4]) == [3, 1]
    assert photo_choice.farthest(rows, 9, [0, 1, 2, 3]) == [4]
    assert photo_choice.farthest(np.zeros((3, 2)), 9) == [0, 1, 2]


def test_landmarks_are_compared_without_translation_and_scale(monkeypatch):
    shape = np.random.default_rng(0).normal(size=(5, 2))
    found = np.stack([shape, 3 * shape + [20, -7], shape[::-1]])
    monkeypatch.setattr(api, "load_detector", lambda name: name)
    monkeypatch.setattr(photo_choice, "_landmarks", lambda photos, detector: found)
    first, second, third = photo_choice.describer("mine")([])
    np.testing.assert_allclose(first, second, atol=1e-12)
    assert np.linalg.norm(first - third) > 1


def test_landmarks_of_photos_are_those_of_the_detector(photos, landmark_detector):
    listed = usable_files([str(photos)])[0]
    expected = landmark_detector([Image.open(photo.path) for photo in listed]).landmarks
    found = photo_choice._landmarks(listed, landmark_detector)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_thumbnails_are_compared_without_brightness_and_contrast(tmp_path):
    image = noise(3, 40, 40) // 2
    for name, pixels in (("a", image), ("b", image + 90), ("c", image[::-1]), ("d", 0 * image)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    photos = [PhotoFile(str(tmp_path / f"{name}.png"), name) for name in "abcd"]
    a, b, c, d = photo_choice.describer()(photos)
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.linalg.norm(a - c) > 1
    assert not d.any()
    assert photo_choice.farthest(np.stack([a, b, c]), 1, [0]) == [2]


# The file.


def test_labels_are_read_back_by_eval_and_by_pandas(photos, tmp_path, caplog):
    out = tmp_path / "new" / "labels.csv"
    out.parent.mkdir()
    session = opened(photos, out)
    assert sorted(named(session)) == [
        "../photos/a.png",
        "../photos/b, c.png",
        "../photos/sub/d.png",
    ]
    numbers = [named(session).index(f"../photos/{name}") for name in ("b, c.png", "sub/d.png")]
    assert session.save(numbers[0], [[0, 0], [11.49, -0.5]]) == 1
    assert session.save(numbers[1], [None, [3, 4.25]]) == 2
    assert session.save(numbers[0], [[0, 0], [11.25, -0.5]]) == 2
    assert out.read_text() == (
        "scorer,landmarks_jax,landmarks_jax,landmarks_jax,landmarks_jax\n"
        'bodyparts,tip,tip,"base, left","base, left"\n'
        "coords,x,y,x,y\n"
        '"../photos/b, c.png",0.0,0.0,11.25,-0.5\n'
        "../photos/sub/d.png,,,3.0,4.25\n"
    )
    source = registry.open_labelled(str(out))
    assert [source.points(i).tolist() for i in range(len(source))] == [[[0, 0], [11.25, -0.5]]]
    assert source.point_names == NAMES
    assert caplog.messages == [f"warning: {out}: 1 photos with missing points left out"]
    pandas = pytest.importorskip("pandas", reason="of the extra `test`")
    table = pandas.read_csv(out, header=[0, 1, 2], index_col=0)["landmarks_jax"]
    assert table["base, left"]["y"].tolist() == [-0.5, 4.25]
    assert table["tip"]["x"].isna().tolist() == [False, True]


def test_a_file_is_continued_with_the_photos_farthest_from_its_own(photos, tmp_path):
    out = photos / "labels.csv"
    session = opened(photos, out, count=1)
    (first,) = named(session)
    session.save(0, [[1, 2], None])
    more = opened(photos, out, count=2)
    listed = [photo.path for photo in usable_files([str(photos)])[0]]
    descriptors = photo_choice.describer()([PhotoFile(path, "") for path in listed])
    start = listed.index(str(photos / first))
    (far,) = photo_choice.farthest(descriptors, 1, [start])
    assert named(more) == [first, str(Path(listed[far]).relative_to(photos))]
    described = more.describe()
    assert [photo["points"] for photo in described["photos"]] == [[[1.0, 2.0], None], None]
    assert (described["names"], described["colors"][0]) == (NAMES, "#ff0000")
    # Another folder: photos of the file stay, and are chosen once whatever leads to them.
    (tmp_path / "link").symlink_to(photos)
    again = opened(tmp_path / "link", out)
    assert (again.labelled, len(again.photos)) == (1, 3)
    assert sorted(named(again)) == ["a.png", "b, c.png", "sub/d.png"]
    assert named(opened(photos, out, count=1)) == [first]


OWN = "scorer,landmarks_jax,landmarks_jax\nbodyparts,{0},{0}\ncoords,x,y\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN.format("tip") + "a.png,1,2\n", "has the points tip; give --points tip, or name a new"),
        ("file,x1,y1\na.png,1,2\n", "not a file of `landmarks-jax label`; name a new one"),
        (OWN.replace("landmarks_jax", "me").format("tip") + "a.png,1,2\n", "not a file of"),
        (OWN.format("tip") + "a.png,1\n", r"labels.csv:4: 2 cells, the header has 3"),
        ("", "not a file of"),
    ],
)
def test_other_files_are_refused_and_kept(text, message, photos):
    out = photos / "labels.csv"
    out.write_text(text)
    code, printed, err = call("label", str(photos), "--points=tip,base", f"--out={out}", "--port=0")
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert message in err
    assert out.read_text() == text


def test_a_photo_that_is_twice_in_a_file_is_refused(photos):
    out = photos / "labels.csv"
    out.write_text(OWN.format("tip") + "a.png,1,2\na.png,3,4\n")
    with pytest.raises(DataError, match=r"csv:5: a.png is in .*csv:4 too; remove one"):
        opened(photos, out, ("tip",))


def test_names_that_a_file_cannot_hold_are_refused(photos):
    (photos / "a.png").rename(photos / "a\\b.png")
    with pytest.raises(DataError, match="has a backslash"):
        opened(photos, photos / "labels.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the folders of the photos"),
        (["{}", "--points=a,a"], "--points: names must be different"),
        (["{}", "--points="], "--points: give the names"),
        (["{}", "--out={}/labels.txt"], "labels.txt: must end in .csv"),
        (["{}/none"], "none: no such file or folder"),
        (["{}", "--detector=none"], "none: no such file"),
        (["{}", "--count=0"], "flag --count=0"),
        (["{}", "--port=70000"], "--port 70000: cannot be opened"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message, photos, tmp_path):
    words = ["--points=tip", f"--out={tmp_path / 'labels.csv'}", "--port=0", "--count=1"]
    words += [word.format(photos) for word in arguments]
    code, _, err = call("label", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "labels.csv").exists()


def test_a_second_process_on_a_file_is_refused(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(label_server.LabelServer, "serve_forever", lambda _: pytest.fail("serves"))
    out = tmp_path / "labels.csv"
    with files.lock(tmp_path / ".labels.csv.lock", what=out):
        code, _, err = call("label", str(photos), "--points=tip", f"--out={out}", "--port=0")
    assert code == 2
    assert err.startswith(f"error: {out}: process ")
    assert err.endswith("is working on it; wait until it ends\n")


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_points_are_of_the_upright_photo(orientation, tmp_path):
    image = noise(1, 12, 10)
    save_rotated(tmp_path / "a.png", image, orientation)
    session = opened(tmp_path, tmp_path / "labels.csv", ("tip",))
    shown = np.asarray(Image.open(BytesIO(session.jpeg(0))))
    assert np.abs(shown.astype(int) - image).mean() < 8  # of JPEG; of another rotation about 85
    session.save(0, [[7, 2]])
    source = registry.open_labelled(str(tmp_path / "labels.csv"))
    assert source.points(0).tolist() == [[7, 2]]
    np.testing.assert_array_equal(source.photo(0), image)


def test_labels_of_other_programs_are_refused_on_rotated_photos(tmp_path):
    save_rotated(tmp_path / "a.png", noise(1, 12, 10), 6)
    (tmp_path / "x.csv").write_text(
        OWN.replace("landmarks_jax", "me").format("tip") + "a.png,1,2\n"
    )
    with pytest.raises(DataError, match="annotated, but its EXIF orientation is 6"):
        registry.open_labelled(str(tmp_path / "x.csv"))


# The server.


@contextmanager
def served(session: Session):
    with label_server.LabelServer(0) as serving:
        serving.session = session
        threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
        yield serving
        serving.shutdown()


def post(
    serving, body: str, *, path="/points", host=None, origins=None, length=None
) -> tuple[int, str]:
    host = host or f"127.0.0.1:{serving.server_port}"
    connection = http.client.HTTPConnection("127.0.0.1", serving.server_port, timeout=10)
    connection.putrequest("POST", path, skip_host=True)
    connection.putheader("Host", host)
    for origin in [f"http://{host}"] if origins is None else origins:
        connection.putheader("Origin", origin.format(port=serving.server_port))
    connection.putheader("Content-Length", str(len(body) if length is None else length))
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_server_shows_photos_and_saves_points(photos, tmp_path):
    session = opened(photos, tmp_path / "labels.csv")
    with served(session) as serving:
        pages = {
            name: urllib.request.urlopen(serving.url + name, timeout=10)
            for name in (
                "",
                "label.js",
                "photo_view.js",
                "label.css",
                "style.css",
                "messages.js",
                "session.json",
                "photos/2",
            )
        }
        contents = {name: page.read() for name, page in pages.items()}
        assert b"<title>Label photos" in contents[""]
        assert b"--accent" in contents["style.css"]
        assert b"export function say" in contents["messages.js"]
        assert json.loads(contents["session.json"])["photos"][2] == {
            "name": named(session)[2],
            "points": None,
        }
        assert Image.open(BytesIO(contents["photos/2"])).size == (12, 10)
        assert pages["photos/2"].headers["Content-Type"] == "image/jpeg"
        for path in ("photos/3", "photos/-1", "app.js", "../server.py", "%2e%2e/server.py"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(serving.url + path, timeout=10)
        assert post(serving, json.dumps({"photo": 2, "points": [[1, 2.5], None]})) == (
            200,
            '{"labelled": 1}',
        )
        Path(session.photos[0].path).unlink()
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(serving.url + "photos/0", timeout=10)
        assert b"cannot be read as an image (no such file)" in raised.value.read()
    assert (tmp_path / "labels.csv").read_text().endswith(",1.0,2.5,,\n")


GOOD = '{"photo": 0, "points": [[1, 2], null]}'


REFUSED = [
    (GOOD, {"origins": []}, 403),
    (GOOD, {"origins": ["null"]}, 403),
    (GOOD, {"origins": ["http://attacker.example"]}, 403),
    (GOOD, {"origins": ["https://127.0.0.1:{port}"]}, 403),
    (GOOD, {"origins": ["http://127.0.0.1:1"]}, 403),
    (GOOD, {"origins": ["http://127.0.0.1:{port}", "http://attacker.example"]}, 403),
    (GOOD, {"host": "attacker.example", "origins": ["http://attacker.example"]}, 403),
    (GOOD, {"path": "/session.json"}, 404),
    ("", {}, 400),
    ("7", {}, 400),
    ("[" * 100_000, {}, 400),
    ("{}", {}, 400),
    ('{"photo": 3, "points": [null, null]}', {}, 400),
    ('{"photo": true, "points": [null, null]}', {}, 400),
    ('{"photo": 0, "points": [null]}', {}, 400),
    ('{"photo": 0, "points": [[1, 2], [1]]}', {}, 400),
    ('{"photo": 0, "points": [[1, 2], [NaN, 1]]}', {}, 400),
    ('{"photo": 0, "points": [[1, 2], ["x", 1]]}', {}, 400),
    ('{"photo": 0, "points": [[1, 2], [1e7, 1]]}', {}, 400),
    (f'{{"photo": 0, "points": [[1, 2], [1{400 * "0"}, 1]]}}', {}, 400),  # more than a float holds
    ("", {"length": (1 << 20) + 1}, 400),
    ("", {"length": -1}, 400),
]


def test_only_the_page_itself_may_write_and_only_points(photos, tmp_path):
    out = tmp_path / "labels.csv"
    with served(opened(photos, out)) as serving:
        codes = [post(serving, body, **more)[0] for body, more, _ in REFUSED]
        assert codes == [code for _, _, code in REFUSED]
        assert not out.exists()
        assert post(serving, GOOD, host=f"localhost:{serving.server_port}")[0] == 200
        assert out.exists()


def test_a_file_that_cannot_be_written_keeps_what_was_saved(photos, tmp_path, monkeypatch):
    session = opened(photos, tmp_path / "labels.csv")
    session.save(0, [[1, 2], [3, 4]])
    before = (tmp_path / "labels.csv").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with served(session) as serving:
        monkeypatch.setattr(files.os, "fsync", full)
        code, text = post(serving, '{"photo": 1, "points": [null, null]}')
        assert (code, session.labelled) == (500, 1)
        assert "labels.csv: cannot be written (No space left on device)" in text
        monkeypatch.undo()
        assert (tmp_path / "labels.csv").read_bytes() == before
        assert post(serving, '{"photo": 1, "points": [null, null]}')[0] == 200
    assert session.labelled == 2
    assert math.isnan(session._labels[session.photos[1].name][0, 0])
