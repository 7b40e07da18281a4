"""`landmarks-jax train PHOTOS`: what is trained, on which photos, by what the machine has."""

import json
import logging
import os
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from landmarks_jax import config as configuration
from landmarks_jax.cli import presets
from landmarks_jax.data import photo_files
from landmarks_jax.data.sources.folder import FolderPhotos
from landmarks_jax.system import cache
from landmarks_jax.system.errors import ConfigError, DataError, WorkdirError
from landmarks_jax.training import own_photos, run_folder
from tests.running import call

# Flags that make a training on photos narrow and short.
SMALL = [
    "--config.model.num_landmarks=2",
    "--config.targets.merge=(2,)",
    "--config.targets.grid=2",
    "--config.targets.keep=3",
    "--config.model.detector=tests.tiny_detector",
    "--config.views.size=16",
    "--config.data.canvas_size=20",
    "--config.targets.view_size=32",
    "--config.train.batch_size=2",
    "--config.model.hourglass_depth=1",
    "--config.targets.steps=(0,)",
]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photos(folder: str, count: int = 4) -> None:
    Path(folder).mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 255, (24, 30, 3), np.uint8)
        Image.fromarray(pixels).save(f"{folder}/{index:02d}.png")


def configured(*arguments, given=(), workdir="run", choose=True):
    preset = presets.load("folder")
    own = own_photos.configured(preset, dict(given), arguments, Path(workdir), choose=choose)
    return own.to_dict()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["wings/"], "wings"),
        (["a/wings/*.png"], "wings"),
        (["a/wings/01.png", "other"], "wings"),
        (["a/*/01.png"], "a"),
        (["My photos (2)"], "My-photos-2"),
        (["legs [1]/"], "legs-1"),
    ],
)
def test_the_run_is_named_by_the_photos_folder(arguments, name):
    for folder in ("wings", "a/wings", "My photos (2)", "legs [1]"):
        Path(folder).mkdir(parents=True)
    assert own_photos.name_of(arguments) == name


def test_the_name_of_this_folder_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "skulls").mkdir()
    monkeypatch.chdir(tmp_path / "skulls")
    assert own_photos.name_of(["."]) == own_photos.name_of(["*.jpg"]) == "skulls"


def test_vgg_is_taken_where_its_file_lies_the_best_first(caplog):
    with caplog.at_level(logging.INFO):
        without = configured("photos")
    kept = cache.folder() / "weights"
    assert without == configured("photos", choose=False)
    assert without["targets"]["network"] == "hog"
    assert f"convert vgg --download vgg19 --out {kept / 'vgg19.npz'}" in caplog.text
    kept.mkdir(parents=True)
    (kept / "vgg16_conv1_1_to_conv3_3.npz").touch()
    cut = configured("photos")["targets"]
    assert (cut["network"], cut["taps"]) == ("vgg16", ("relu3_3",))
    (kept / "vgg19.npz").touch()
    whole = configured("photos")["targets"]
    assert (whole["network"], whole["taps"]) == ("vgg19", ("relu3_4", "relu4_4"))
    assert whole["weights"] == str(kept / "vgg19.npz")
    Path("data/weights").mkdir(parents=True)
    Path("data/weights/vgg19.npz").touch()
    assert configured("photos")["targets"]["weights"] == "data/weights/vgg19.npz"
    assert configured("photos", given={"targets.taps": ("fine",)})["targets"]["network"] == "hog"
    assert configured("photos", given={"targets.components": 8})["targets"]["network"] == "vgg19"


def test_steps_after_the_decay_of_the_learning_rate_get_a_warning(caplog):
    configured("photos")
    assert "config.train.steps" not in caplog.text
    preset = configuration.with_fields(presets.load("folder"), {"train.steps": 3_001})
    own_photos.configured(preset, {}, ["photos"], Path("run"), choose=True)
    assert "config.train.steps = 3001: from step 3000 on the learning rate is 0" in caplog.text


def test_a_gpu_gets_the_wide_model_but_for_what_is_given(monkeypatch):
    narrow = configured("photos")
    assert (narrow["model"]["detector_channels"], narrow["views"]["size"]) == (128, 48)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    wide = configured("photos", given={"views.size": 48})
    assert (wide["model"]["detector_channels"], wide["views"]["size"]) == (256, 48)
    # The sizes go together: one that is given keeps the preset's others.
    assert (wide["data"]["canvas_size"], wide["model"]["hourglass_depth"]) == (60, 2)
    wide = configured("photos", given={"model.detector_channels": 128})
    assert (wide["model"]["detector_channels"], wide["views"]["size"]) == (128, 128)
    assert (wide["data"]["canvas_size"], wide["model"]["hourglass_depth"]) == (160, 4)
    assert configured("photos", choose=False) == narrow


def write_run(workdir, arguments):
    """A run folder with the configuration of a training on photos."""
    Path(workdir).mkdir(parents=True)
    config = json.dumps(configured(*arguments, workdir=workdir))
    Path(workdir, run_folder.CONFIG_FILE).write_text(config)


def test_a_run_keeps_its_configuration_when_vgg_appears():
    write_run("run", ["photos"])
    Path("data/weights").mkdir(parents=True)
    Path("data/weights/vgg19.npz").touch()
    again = configured("moved/photos", given={"train.steps": 9})
    assert again["targets"]["network"] == "hog"
    assert again["data"]["roots"] == ("moved/photos",)
    assert again["train"]["steps"] == 9
    # A configuration that is named is taken, so that training refuses it by its first field.
    other = own_photos.configured(presets.load("quickstart"), {}, ["p"], Path("run"), choose=False)
    assert other.data.num_synthetic == presets.load("quickstart").data.num_synthetic
    assert other.targets.keep == 0


def test_a_run_from_another_machine_keeps_its_configuration(monkeypatch):
    made = own_photos.configured(presets.load("folder"), {}, ["there"], Path("run"), choose=True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(
        own_photos.transfer_files, "read", lambda path: types.SimpleNamespace(config=made)
    )
    preset, given = presets.load("folder"), {"train.steps": 9}
    config = own_photos.configured(
        preset, given, ["here"], Path("run"), choose=True, transfer=Path("moved")
    )
    assert (config.views.size, config.train.steps, config.data.roots) == (48, 9, ("here",))


def test_the_default_folder_is_not_that_of_other_photos(tmp_path):
    for folder in ("a/wings", "b/wings"):
        photos(folder, 1)
    assert own_photos.folder_of(["a/wings"]) == Path("runs/wings")
    write_run("runs/wings", ["a/wings/"])
    assert own_photos.folder_of([str(tmp_path / "a/wings")]) == Path("runs/wings")
    with pytest.raises(WorkdirError, match="runs/wings: holds a run on a/wings/; name another"):
        own_photos.folder_of(["b/wings"])


def test_the_box_crop_needs_points():
    config = configuration.with_fields(presets.load("folder"), {"data.crop": "box"})
    with pytest.raises(ConfigError, match=r"config\.data\.crop = 'box': must be center or tight"):
        own_photos.look(config, [], Path("run"))


@pytest.mark.parametrize("arguments", [["."], ["p/00.png", "p/../"], ["[r]uns"]])
def test_a_run_in_a_folder_of_photos_is_refused(arguments):
    photos("p", 1)
    photos("runs/b", 1)
    with pytest.raises(WorkdirError, match=r"runs/a: is in the folder of photos .*by --workdir"):
        own_photos.look(presets.load("folder"), arguments, Path("runs/a"))
    with pytest.raises(DataError, match="1 different photos"):
        own_photos.look(presets.load("folder"), ["p"], Path("runs/p"))


def test_fields_are_checked_before_the_photos_are_looked_at(monkeypatch):
    photos("p", 1)
    monkeypatch.setattr(own_photos, "look", None)
    for flag, message in (
        ("--config.train.batch_size=1", "config.train.batch_size = 1: must be"),
        ("--config.data.roots=('p',)", "name the photos by arguments"),
    ):
        code, _, err = call("train", "p", flag)
        assert code == 2
        assert message in err.splitlines()[-1]


@pytest.mark.parametrize("field", ["data.roots", "data.source", "data.landmarks"])
def test_photos_are_named_once(field):
    with pytest.raises(ConfigError, match=rf"--config.{field}: name the photos by arguments"):
        configured("photos", given={field: "x"})


def test_a_preset_of_faces_leaves_out_none_of_the_photos():
    # Its list is of CelebA's photos, which the user may not have.
    preset = presets.load("faces_cpu")
    assert preset.data.exclude
    own = own_photos.configured(preset, {}, ["photos"], Path("run"), choose=False)
    assert own.data.exclude == ()


def test_the_learning_rate_falls_to_the_end_of_the_steps():
    assert configured("photos", given={"train.steps": 9})["optimizer"]["cosine_steps"] == 9
    both = {"train.steps": 9, "optimizer.cosine_steps": 3_000}
    assert configured("photos", given=both)["optimizer"]["cosine_steps"] == 3_000


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.targets.keep=65", "config.targets.keep = 65: must be at most the 64"),
        ("--config.targets.keep=9", "config.targets.keep = 9: must be 0, or at least"),
        ("--workdir=wings/run", "wings/run: is in the folder of photos wings"),
    ],
)
def test_what_is_wrong_is_said_before_the_photos_are_decoded(flag, message):
    photos("wings", 1)  # too few, which would be said next
    code, _, err = call("train", "wings", flag)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: " + message)


def test_images_and_globs_name_the_photos_of_their_folder():
    photos("a/b")
    photos("a/c", 2)
    Path("a/b/notes.txt").write_text("x")
    whole, note = photo_files.usable_files(["a/b"])
    assert photo_files.usable_files(["a/b/*.png"]) == (whole, "")
    assert photo_files.usable_files(["a/b/*"]) == (whole, note)
    assert "1 files that are not images left out: notes.txt" in note
    some, _ = photo_files.usable_files(["a/b/03.png", "a/c", "a/b/01.png", "a/*/01.png"])
    names = ["c/00.png", "c/01.png", "b/01.png", "b/03.png"]
    assert [file.name for file in some] == names
    with pytest.raises(DataError, match=r"a/\*.gif: no such file or folder, and no match"):
        photo_files.usable_files(["a/b", "a/*.gif"])


def test_at_most_so_many_photos_nearly_the_same_when_some_are_added():
    photos("p", 40)
    every = FolderPhotos(["p"])
    some = FolderPhotos(["p"], max_photos=10)
    names = [some.name(index) for index in range(len(some))]
    assert len(names) == 10
    assert names == sorted(names)
    assert "chosen of 40 (config.data.max_photos)" in some.summary
    assert len(FolderPhotos(["p"], max_photos=40)) == len(every) == 40
    os.remove(f"{names[0]}")
    left = FolderPhotos(["p"], max_photos=10)
    assert set(names[1:]) < {left.name(index) for index in range(10)}


@pytest.mark.slow
def test_the_command_trains_and_continues_with_the_photos_as_arguments():
    photos("my things", 24)
    code, _, err = call("train", "my things", *SMALL, "--config.train.steps=1")
    assert code == 0, err
    assert "warning: only 24 different photos" in err
    assert "warning: " not in call("train", "my things", "--config.train.steps=1")[2]
    run = Path("runs/my-things")
    config = run_folder.read_config(run)
    assert config.data.roots == ("my things",)
    assert config.objective.task == "self_training"
    assert run_folder.newest_step(run) == 1
    assert (run / "report.html").is_file()
    code, _, err = call("train", "my things", "--config.train.steps=2")
    assert code == 0, err
    assert run_folder.newest_step(run) == 2
    code, _, err = call("train", "nowhere")
    assert code == 2
    assert "nowhere: no such file or folder, and no match as a glob" in err
    assert not Path("runs/nowhere").exists()
    code, _, err = call("train", "my things", "--multihost")
    assert (code, "--multihost: not with photos" in err) == (2, True)
