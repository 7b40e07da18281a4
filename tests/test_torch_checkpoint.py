"""Published PyTorch checkpoints find here what they find there, wherever the files were made."""

import functools
import importlib.util
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from landmarks_jax import load_detector
from landmarks_jax.configs import released
from landmarks_jax.evaluation import pack_run
from landmarks_jax.inference import packed_file
from landmarks_jax.keypoints import soft_argmax
from landmarks_jax.models.generator import Generator
from landmarks_jax.models.hourglass import Detector
from landmarks_jax.system.errors import WeightsError, WorkdirError
from landmarks_jax.training import checkpoints, import_published, run_folder
from landmarks_jax.weights import published_networks
from tests.pickling import tensor, zipped
from tests.running import ROOT, command, finish

TOLERANCE = 1e-4
# Made by tests/torch_networks.py, so that these tests need no PyTorch.
STORED = ROOT / "tests" / "published"


@pytest.fixture(scope="module", params=["stored", "new"])
def made(request, tmp_path_factory):
    """A folder of PyTorch's files, and what PyTorch makes of them."""
    folder = STORED
    if request.param == "new":
        if importlib.util.find_spec("torch") is None:
            pytest.skip("PyTorch is not installed")
        from tests import torch_networks  # noqa: PLC0415

        folder = tmp_path_factory.mktemp("published")
        torch_networks.make(folder, seed=1)
    with np.load(folder / "outputs.npz") as outputs:
        return SimpleNamespace(folder=folder, **outputs)


@functools.cache
def detect(sizes):
    module = Detector(*sizes)
    return jax.jit(functools.partial(module.apply, use_running_average=True))


def scores_of(network, views):
    sizes = ("num_landmarks", "detector_channels", "hourglass_depth")
    run = detect(tuple(network.sizes[name] for name in sizes))
    return run(network.variables, np.float32(views / 255))


def test_a_plain_detector(made):
    network = published_networks.read_detector(made.folder / "core.pth")
    assert network.sizes == {"num_landmarks": 3, "detector_channels": 8, "hourglass_depth": 2}
    np.testing.assert_allclose(scores_of(network, made.views), made.core, atol=TOLERANCE)


def test_an_adapted_detector_with_its_core(made):
    network = published_networks.read_detector(made.folder / "fan.pth", made.folder / "core.pth")
    scores = scores_of(network, made.views)
    assert made.folded.std() > 0.1
    assert np.abs(made.folded - made.core).mean() > 0.01
    np.testing.assert_allclose(scores, made.folded, atol=TOLERANCE)

    # Cell p of n there is (2p + 1) / n - 1 here.
    cells = made.folded.shape[1]
    landmarks = np.asarray(soft_argmax(scores, 10.0))
    np.testing.assert_allclose(landmarks, (2 * made.cells + 1) / cells - 1, atol=TOLERANCE)


@pytest.mark.parametrize("mistake", ["same_padding", "other_epsilon", "other_variances"])
def test_each_mistake_would_move_every_landmark(made, mistake):
    network = published_networks.read_detector(made.folder / "fan.pth", made.folder / "core.pth")
    landmarks = np.asarray(soft_argmax(scores_of(network, made.views), 10.0))
    cells = (landmarks + 1) / 2 * made.folded.shape[1] - 0.5
    np.testing.assert_allclose(cells, made.cells, atol=4 * TOLERANCE)
    away = np.linalg.norm(cells - getattr(made, f"cells_of_{mistake}"), axis=-1)
    assert away.max(0).min() > 10 * TOLERANCE  # over the views, of the landmark that moves least


def test_a_generator(made):
    network = published_networks.read_generator(made.folder / "gen.pth")
    assert network.sizes == {"num_landmarks": 3, "generator_channels": 2, "residual_blocks": 1}
    module = Generator(2, 1)
    run = jax.jit(functools.partial(module.apply, use_running_average=True))
    images = run(network.variables, np.float32(made.views / 255), made.maps)
    assert made.images.std() > 0.1
    np.testing.assert_allclose(images, made.images, atol=TOLERANCE)


@pytest.fixture(scope="module")
def config():
    config = released.get_config()
    config.views.size, config.data.canvas_size = 32, 40
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory, config):
    """The folder of a run that was converted from the stored files."""
    workdir = tmp_path_factory.mktemp("runs") / "published"
    import_published.import_run(
        workdir,
        config,
        detector=STORED / "fan.pth",
        generator=STORED / "gen.pth",
        core=STORED / "core.pth",
    )
    return workdir


def test_the_run_that_is_made(run, config):
    read = run_folder.read_config(run)
    assert read.model.to_dict() == {
        **config.model.to_dict(),
        "num_landmarks": 3,
        "detector_channels": 8,
        "hourglass_depth": 2,
        "generator_channels": 2,
        "residual_blocks": 1,
    }
    assert read.objective == config.objective
    restored = checkpoints.restore(run, read)
    assert (restored.step, restored.seconds) == (0, 0.0)
    detector = published_networks.read_detector(STORED / "fan.pth", STORED / "core.pth").variables
    generator = published_networks.read_generator(STORED / "gen.pth").variables
    for part in ("params", "batch_stats"):
        wanted = {"detector": detector[part], "generator": generator[part]}
        jax.tree.map(np.testing.assert_array_equal, getattr(restored.state, part), wanted)
    (note,) = run_folder.read_record(run).all_notes()
    assert note.startswith("converted from PyTorch, not trained here: the detector from fan.pth (")
    assert "core.pth (SHA-256 " in note
    assert "gen.pth (SHA-256 " in note


def test_the_packed_detector_of_that_run(tmp_path, run):
    packed_file.write(tmp_path / "x.safetensors", pack_run.pack_run(run, []))
    detector = load_detector(tmp_path / "x.safetensors")
    with np.load(STORED / "outputs.npz") as outputs:
        views, cells = outputs["views"], outputs["cells"]
    found = detector(views, boxes=[[0, 0, 32, 32]] * len(views)).landmarks
    # A cell is 4 pixels wide; its middle one and a half from the first pixel's centre.
    np.testing.assert_allclose(found, 4 * cells + 1.5, atol=16 * TOLERANCE)
    assert detector.summary["notes"] == run_folder.read_record(run).all_notes()


def test_a_detector_alone(tmp_path, config):
    config = config.copy_and_resolve_references()
    config.model.generator_channels, config.model.residual_blocks = 1, 1
    sized = import_published.import_run(tmp_path / "run", config, detector=STORED / "core.pth")
    assert sized.model.generator_channels == config.model.generator_channels
    assert "no generator was converted" in run_folder.read_record(tmp_path / "run").all_notes()[1]
    assert checkpoints.restore(tmp_path / "run", sized).step == 0


def test_a_folder_that_holds_a_run(run, config):
    with pytest.raises(WorkdirError, match="holds a run already"):
        import_published.import_run(run, config, detector=STORED / "core.pth")


def test_networks_of_different_trainings(tmp_path, config, monkeypatch):
    other = published_networks.read_generator(STORED / "gen.pth")
    other.sizes["num_landmarks"] = 5
    monkeypatch.setattr(published_networks, "read_generator", lambda path: other)
    with pytest.raises(WeightsError, match="finds 3 landmarks and the generator takes 5"):
        import_published.import_run(
            tmp_path / "run", config, detector=STORED / "core.pth", generator=STORED / "gen.pth"
        )
    assert not (tmp_path / "run").exists()


def test_the_core_is_needed_where_the_detector_is_adapted_and_only_there():
    with pytest.raises(WeightsError, match=r"fan\.pth: an adapted detector .*--core"):
        published_networks.read_detector(STORED / "fan.pth")
    with pytest.raises(WeightsError, match=r"core\.pth: not an adapted detector.*drop --core"):
        published_networks.read_detector(STORED / "core.pth", STORED / "core.pth")
    with pytest.raises(
        WeightsError, match=r"gen\.pth: conv2\.conv1\.weight is missing; not the core"
    ):
        published_networks.read_detector(STORED / "fan.pth", STORED / "gen.pth")


@pytest.fixture
def changed(monkeypatch):
    """Reads a detector of the stored files with arrays replaced, or left out where None."""
    plain = published_networks.read_state_dict(STORED / "core.pth")

    def read(**changes):
        state = plain | {key.replace("__", "."): array for key, array in changes.items()}
        state = {key: array for key, array in state.items() if array is not None}
        monkeypatch.setattr(published_networks, "read_state_dict", lambda path: state)
        return published_networks.read_detector("x.pth")

    return read


def test_num_batches_tracked_is_ignored(changed):
    changed(bn1__num_batches_tracked=None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"m0__b2_plus_1__bn2__running_var": None}, "m0.b2_plus_1.bn2.running_var is missing"),
        ({"conv1__weight": None}, "not a detector of the released code"),
        ({"l_0__bias": np.zeros(4, np.float32)}, r"l_0.bias has shape \(4,\)"),
        ({"l_0__bias": np.full(3, np.nan, np.float32)}, "l_0.bias does not have finite"),
        ({"m1__b1_1__bn1__weight": np.zeros(3)}, "m1.b1_1.bn1.weight does not belong"),
        ({"conv3__conv1__bias": np.zeros(2)}, "conv3.conv1.bias does not belong"),
        ({"m0__b1_99__bn1__weight": np.zeros(3)}, "99 levels of the hourglass"),
        ({"conv1__weight": np.zeros((3, 3, 7, 7))}, "a detector of 12 channels"),
    ],
    ids=["missing", "no detector", "shape", "nan", "two stacks", "bias", "deep", "width"],
)
def test_detectors_that_do_not_fit(changed, changes, said):
    with pytest.raises(WeightsError, match=rf"^x\.pth: .*{said}") as error:
        changed(**changes)
    assert "\n" not in str(error.value)


def test_projections_that_do_not_fit(changed):
    with pytest.raises(WeightsError, match=r"has both conv2\.conv1\.W and conv2\.conv1\.w"):
        published_networks.fold(
            {"conv2.conv1.W": np.eye(2), "conv2.conv1.weight": np.zeros(1)},
            "x.pth",
            STORED / "core.pth",
        )
    with pytest.raises(WeightsError, match=r"W has shape \(5, 5\)"):
        published_networks.fold({"conv2.conv1.W": np.eye(5)}, "x.pth", STORED / "core.pth")


def test_the_command(tmp_path):
    shutil.copy(STORED / "core.pth", tmp_path / "model_34.fan.pth")
    (tmp_path / "other.pth").write_bytes(zipped({"a": tensor()}))
    module = ("convert", "checkpoint", f"--workdir={tmp_path / 'run'}")
    right = command(
        *module, f"--detector={tmp_path}/model_34.fan.pth", f"--generator={STORED}/gen.pth"
    )
    wrong = command(*module, f"--detector={tmp_path}/other.pth")
    code, out, err = finish(right)
    assert code == 0, err
    assert "num_landmarks 3" in out
    assert run_folder.read_config(tmp_path / "run").views.size == 128
    code, _, err = finish(wrong)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {tmp_path}/other.pth: not a detector")
