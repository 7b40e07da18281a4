"""What a folder looks like before training: a test for each thing that can be wrong with one."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from landmarks_jax.data import decoding, photo_groups, photo_sample
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.photo_files import PhotoFile
from landmarks_jax.data.sources.photos import PhotoFiles
from landmarks_jax.data.survey import noise_ratio, survey
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError

FRAME = Framing(80, 64, "center")
SIZE = (96, 80)


def draw(kind, seed, size=SIZE):
    """A thing at about the middle of a plain, graded or cluttered background."""
    rng = np.random.default_rng((seed, *kind.encode()))
    cells = int(rng.choice([1, 2, 16]))
    backdrop = rng.integers(0, 256, (cells, cells, 3), np.uint8)
    photo = Image.fromarray(backdrop).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(photo)

    def place(points):
        turn = np.exp(1j * rng.normal(0, 0.1)) * rng.uniform(0.8, 1) * (1 + rng.normal(0, 0.03))
        moved = np.array(points) @ [1, 1j] * turn + rng.normal(0, 0.04, 2) @ [1, 1j]
        return [((z.real + 1) * size[0] / 2, (z.imag + 1) * size[1] / 2) for z in moved]

    ink, light = tuple(rng.integers(0, 70, 3)), tuple(rng.integers(170, 256, 3))
    if kind == "leaf":  # lies across, with ribs
        t = np.linspace(0, 2 * np.pi, 24)
        pen.polygon(place(np.stack([0.85 * np.cos(t), 0.4 * np.sin(t)], 1)), light, ink)
        for x in (-0.4, 0, 0.4):
            pen.line(place([(x - 0.2, 0), (x, 0.3)]), ink, 2)
    elif kind == "post":  # stands upright, with a head
        pen.polygon(place([(-0.15, -0.4), (0.15, -0.4), (0.2, 0.9), (-0.2, 0.9)]), light, ink)
        pen.ellipse([*place([(0, -0.6)])[0], *place([(0.3, -0.3)])[0]][:2] * 2, light)
    elif kind == "cross":  # aslant
        for end in ((0.7, 0.7), (0.7, -0.7)):
            pen.line(place([(-end[0], -end[1]), end]), light, 12)
    return photo


def folder(path, photos, ending="png"):
    """A source of the photos, saved."""
    path.mkdir(exist_ok=True)
    files = []
    for number, photo in enumerate(photos):
        file = path / f"{number:04}.{ending}"
        photo.save(file)
        files.append(PhotoFile(str(file), f"{path.name}/{file.name}"))
    return PhotoFiles(files, None, f"{len(files)} photos of {path.name}")


@pytest.fixture(scope="module")
def leaves(tmp_path_factory):
    """320 photos of one kind of thing."""
    path = tmp_path_factory.mktemp("folder") / "leaves"
    return folder(path, (draw("leaf", seed) for seed in range(320)))


def some(source, indices):
    """A source of some of the photos."""
    return PhotoFiles([source._photos[i] for i in indices], None, "some")


def test_a_good_folder_is_described_without_a_warning(leaves):
    lines, warnings = survey(leaves, FRAME)
    assert warnings == []
    assert lines == [
        "320 photos of 96 x 80 to 96 x 80 pixels, median 96 x 80; width over height 1.20 to 1.20, "
        "median 1.20",
        "of all 320 photos: 320 in colour, 0 grey",
        "of all 320 photos: 0 near-duplicates",
    ]


def test_lines_say_sizes_and_colours(tmp_path):
    sizes = [(60, 60)] * 5 + [(90, 80)] * 20 + [(200, 100)]
    photos = [draw("leaf", seed, size) for seed, size in enumerate(sizes)]
    photos[:7] = [photo.convert("L") for photo in photos[:7]]
    lines, _ = survey(folder(tmp_path / "p", photos), FRAME)
    assert lines[0] == (
        "26 photos of 60 x 60 to 200 x 100 pixels, median 90 x 80; width over height 1.00 to 2.00, "
        "median 1.12"
    )
    assert lines[1] == "of all 26 photos: 19 in colour, 7 grey"


def test_few_photos_get_a_warning_and_fewer_are_refused(leaves):
    (warning,) = survey(some(leaves, range(40)), FRAME).warnings
    assert warning.startswith("only 40 different photos:")
    assert "add photos, 300 at least" in warning
    survey(some(leaves, range(20)), FRAME)
    with pytest.raises(
        DataError, match=r"^some: 19 different photos \(all 19 photos\); .*least 20"
    ):
        survey(some(leaves, range(19)), FRAME)


def test_names_need_not_be_utf_8(leaves):
    odd = [PhotoFile(leaves._photos[i].path, f"leaves/\udcff{i}.png") for i in range(20)]
    assert survey(PhotoFiles(odd, None, "odd"), FRAME).lines[0].startswith("20 photos")


def copy_of(photo, number):
    """The photo resized, blurred a little or saved as JPEG."""
    size = [round(side * (0.6, 1, 1.7)[number % 3]) for side in photo.size]
    return photo.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(0.3))


def test_one_picture_repeated_is_refused(tmp_path):
    photo = draw("leaf", 3)
    source = folder(tmp_path / "one", [copy_of(photo, number) for number in range(60)], "jpg")
    with pytest.raises(DataError, match=r"one: 1 different photos \(59 near-duplicates, such as "):
        survey(source, FRAME)


def test_near_duplicates_are_counted_and_a_pair_is_named(tmp_path):
    photos = [draw("leaf", seed) for seed in range(150)]
    copies = [copy_of(photos[0], number) for number in range(40)]
    lines, (_, warning) = survey(folder(tmp_path / "p", photos + copies), FRAME)
    assert lines[2].startswith("of all 190 photos: 40 near-duplicates, such as p/")
    assert warning.startswith("40 of all 190 photos are near-duplicates of others, such as p/")
    names = warning.split("such as ")[1].split(":")[0].split(" = ")
    group = {"p/0000.png", *(f"p/{number:04}.png" for number in range(150, 190))}
    assert len(set(names)) == 2
    assert set(names) <= group


def test_a_few_near_duplicates_are_only_counted(tmp_path):
    twice = folder(tmp_path / "p", [draw("leaf", seed % 58) for seed in range(60)])
    lines, (warning,) = survey(twice, FRAME)
    assert lines[2].startswith("of all 60 photos: 2 near-duplicates, such as p/")
    assert warning.startswith("only 58 different photos")


def test_things_scanned_alike_on_white_are_no_duplicates(tmp_path):
    photos = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        photo = Image.new("RGB", (96, 96), "white")
        ends = np.array([[12, 48], [84, 48]]) + rng.normal(0, 3, (2, 2))
        ImageDraw.Draw(photo).line([*ends.ravel()], (90, 80, 70), int(rng.integers(18, 26)))
        photos.append(photo)
    assert "of all 30 photos: 0 near-duplicates" in survey(folder(tmp_path / "p", photos), FRAME)[0]


def test_noise_gets_a_warning(tmp_path):
    rng = np.random.default_rng(0)
    noise = [
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for side in (64, 90, 150)
    ]
    noise += [Image.fromarray(rng.integers(0, 256, (80, 80), np.uint8)) for _ in range(30)]
    _, warnings = survey(folder(tmp_path / "p", noise, "jpg"), FRAME)
    assert any(warning.startswith("the photos look like noise: pixels") for warning in warnings)


def test_the_noise_ratio_of_noise_is_one_and_of_a_ramp_a_sixteenth():
    noise = np.random.default_rng(0).normal(0, 40, (20, 64, 64))
    ramp = np.broadcast_to(np.arange(64.0), (1, 64, 64))
    np.testing.assert_allclose(noise_ratio(noise).mean(), 1, atol=0.01)
    np.testing.assert_allclose(noise_ratio(ramp), 1 / 16)


def test_panoramas_get_a_warning_by_name_and_photos_of_cameras_do_not(tmp_path):
    def warned(shapes, crop="center"):
        photos = [draw("leaf", i, shapes[i % len(shapes)]) for i in range(30)]
        return survey(folder(tmp_path / "p", photos), Framing(80, 64, crop)).warnings[1:]

    for shape in ((200, 90), (90, 200)):
        for crop in ("center", "tight"):
            (warning,) = warned([shape], crop)
            assert warning.startswith("30 of 30 photos have sides of over 1.6 to 1, such as p/00")
            assert f"config.data.crop = '{crop}' stretches photos to squares" in warning
    (warning,) = warned([(120, 90), (90, 120)])  # each is stretched a little, but otherwise
    assert "very different shapes, width over height mostly 0.75 to 1.33" in warning
    assert warned([(150, 100)]) == []
    assert warned([(120, 90), (100, 90), (96, 96)]) == []
    assert warned([(200, 90)], "box") == []


def test_small_photos_get_a_warning_by_what_the_view_shows_of_them(leaves):
    few = some(leaves, range(30))  # 80 pixels high, of which `center` shows 64 and `tight` 80

    def warned(*frame):
        return survey(few, Framing(*frame)).warnings[1:]

    assert warned(120, 96, "center") == []
    (warning,) = warned(150, 120, "center")
    assert warning.startswith("30 of 30 photos are small, such as leaves/0")
    assert "a view of 120 pixels enlarges them over 1.5 times" in warning
    assert warned(150, 120, "tight") == []
    assert len(warned(160, 128, "tight")) == 1


def test_photos_of_one_colour_are_named_transparent_ones_too(tmp_path):
    photos = [draw("leaf", seed) for seed in range(30)]
    photos[4] = Image.new("RGB", SIZE)
    drawn = Image.fromarray(np.full((*SIZE, 4), 255, np.uint8))
    drawn.putalpha(draw("leaf", 5).convert("L").resize(drawn.size))  # white, with alpha only
    photos[7] = drawn
    warning = survey(folder(tmp_path / "p", photos), FRAME).warnings[1]
    assert warning.startswith("2 of all 30 photos are of one colour, on white where they are")
    assert "such as p/0004.png" in warning or "such as p/0007.png" in warning
    black = [Image.new("RGB", SIZE)] * 30
    with pytest.raises(DataError, match=r"black: 0 different photos \(30 of one colour, such as"):
        survey(folder(tmp_path / "black", black), FRAME)


def thumbnails(shares, count=240):
    """Grey photos `[N, 64, 64]` of kinds of things and the number of each photo's kind."""
    kinds = np.repeat(np.arange(len(shares)), [round(share * count) for share in shares.values()])
    photos = [
        draw(list(shares)[kind], seed, (64, 64)).convert("L") for seed, kind in enumerate(kinds)
    ]
    order = np.random.default_rng(0).permutation(len(kinds))
    return np.stack([np.asarray(photos[i]) for i in order]), kinds[order]


@pytest.mark.parametrize(
    "shares",
    [
        {"leaf": 0.5, "post": 0.5},
        {"leaf": 0.8, "cross": 0.2},
        {"leaf": 0.34, "post": 0.33, "cross": 0.33},
    ],
)
def test_several_kinds_of_things_are_found_apart(shares):
    photos, kinds = thumbnails(shares)
    groups = photo_groups.find(photos)
    assert groups is not None
    inside = [groups.second[kinds == kind].mean() for kind in range(len(shares))]
    assert min(inside) < 0.1
    assert max(inside) > 0.9
    assert all(min(share, 1 - share) < 0.1 for share in inside)  # no kind is divided
    assert not groups.second[groups.typical[0]]
    assert groups.second[groups.typical[1]]


@pytest.mark.parametrize("kind", ["leaf", "post"])
def test_one_kind_of_thing_has_no_groups_whatever_its_background(kind):
    photos, _ = thumbnails({kind: 1})
    assert photo_groups.valley(photo_groups.descriptors(photos)) > photo_groups.MAX_DEPTH + 0.05


def test_mixed_things_get_a_warning_that_names_one_of_each(tmp_path):
    photos = [draw("post" if seed % 4 == 0 else "leaf", seed) for seed in range(240)]
    (_, warning) = survey(folder(tmp_path / "p", photos), FRAME).warnings
    assert warning.startswith("the photos fall into groups that look unlike, ")
    first, second = (part.split()[0] for part in warning.split(" as p/")[1:])
    assert {int(name[:4]) % 4 == 0 for name in (first, second.rstrip(":"))} == {True, False}


def test_the_order_of_photos_and_the_number_of_threads_change_nothing(leaves, monkeypatch):
    photos = some(leaves, range(60))
    expected = survey(photos, FRAME)
    assert survey(some(leaves, np.random.default_rng(0).permutation(60)), FRAME) == expected
    monkeypatch.setattr(parallel, "num_threads", lambda: 7)
    assert survey(photos, FRAME) == expected


def test_of_many_or_large_photos_a_random_sample_is_decoded(leaves, monkeypatch):
    monkeypatch.setattr(photo_sample, "_LEAST", 25)
    monkeypatch.setattr(photo_sample, "_PIXELS", 30 * 96 * 80)
    photos = some(leaves, range(60))
    lines, (warning,) = survey(photos, FRAME)
    assert lines[1] == "of 30 photos drawn at random: 30 in colour, 0 grey"
    assert warning.startswith("only 60 different photos")
    monkeypatch.setattr(photo_sample, "_PIXELS", 0)
    sample = photo_sample.take(photos)
    assert len(sample.grey) == 25
    assert len(sample.sizes) == 60
    assert sample.names[:25] != [photos.name(i) for i in range(25)]


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_sizes_and_small_photos_are_those_of_whole_ones(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    draw("post", 1, (320, 240)).save(path, exif=exif)
    for upright in (True, False):
        whole, _ = decoding.decode(path, upright)
        if ending != "tif" or upright:
            assert decoding.read_size(path, upright) == whole.shape[1::-1]
        small, _ = decoding.decode(path, upright, side=60)
        factor = 4 if ending == "jpg" else 1
        assert small.shape[:2] == (whole.shape[0] // factor, whole.shape[1] // factor)
        expected = Image.fromarray(whole).resize(small.shape[1::-1], Image.Resampling.BOX)
        assert np.abs(small.astype(int) - np.asarray(expected)).mean() < 2
