"""Pretraining on joints, and runs that start from it: fine-tuned, adapted, cut off, transferred."""

import dataclasses
import importlib
import json
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest

from landmarks_jax.evaluation import pack_run, pckh, run_evaluation
from landmarks_jax.inference import packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.studies import faces_figure, timed_session
from landmarks_jax.system.errors import ConfigError, UserError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import (
    checkpoints,
    import_published,
    init_from,
    loop,
    run_folder,
    run_inputs,
    sharding,
    transfer_files,
)
from landmarks_jax.training import state as states
from landmarks_jax.training.run_folder import read_log as rows
from landmarks_jax.weights import published_networks
from tests import datasets
from tests.running import TINY, call, finished_run, flags, narrow, shrink

CORE_FILE = Path(__file__).parent / "published" / "core.pth"


def pretraining(root):
    config = importlib.import_module("landmarks_jax.configs.mpii_pretrain").get_config()
    shrink(config)
    config.model.detector = TINY["model__detector"]
    config.model.num_landmarks = 16
    config.data.canvas_size = 24
    config.data.roots = (str(root),)
    config.eval.mpii = str(root)
    config.train.batch_size = 4
    config.train.steps = 2
    config.train.picture_every = 2
    config.optimizer.drop_steps = ()
    return config


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """A run of the shipped configuration on eight people, two steps long, by the command."""
    folder = tmp_path_factory.mktemp("core")
    person = datasets.mpii_person
    images = [
        {"name": f"{i}.jpg", "people": [person(i), person(3 * i, (1, 8, 9))], "video": 14 + i}
        for i in range(6)
    ]
    config = pretraining(datasets.mpii(folder / "data", images))
    run = folder / "run"
    arguments = ["--config=mpii_pretrain", *flags(config), f"--workdir={run}"]
    code, out, err = call("train", *arguments)
    assert code == 0, err
    assert "10 people of" in err
    assert "starting from scratch\n" in err
    assert "pckh" in out
    return run, config


def kernels(workdir):
    """The 3 x 3 kernels of a pretraining's checkpoint, by path, and its whole detector."""
    config = run_folder.read_config(workdir)
    variables = jax.device_get(states.trained_variables(checkpoints.restore(workdir, config).state))
    flat = flax.traverse_util.flatten_dict(variables["params"])
    return {path: leaf for path, leaf in flat.items() if leaf.shape[:2] == (3, 3)}, variables


def flat_core(state):
    return flax.traverse_util.flatten_dict(jax.device_get(state.core))


def assert_same_bytes(found, wanted):
    assert found.keys() == wanted.keys()
    assert len(found) == 2
    for path, leaf in wanted.items():
        assert found[path].dtype == leaf.dtype == np.float32
        assert found[path].tobytes() == leaf.tobytes(), path


def test_pretraining_tells_pckh_and_is_scored(core, tmp_path):
    run, config = core
    assert [row["step"] for row in rows(run)] == [1, 2]
    for row in rows(run):
        assert {"loss", "pckh", "norm_detector", "learning_rate"} <= row.keys()
        assert "pixel" not in row
        assert 0 <= row["pckh"] <= 100
        assert 0 < row["loss"] < 10
    assert (run / "pictures" / "step-000002.png").stat().st_size > 5_000
    assert run_folder.read_record(run).init == {"mode": "scratch"}
    out = run_evaluation.evaluate_run(run)
    folder = run / "evaluation"
    result = json.loads((folder / "mpii.json").read_text())
    assert set(result["results"]) == {"running", "batch", "untrained", "mean_pose"}
    assert result["people"] == {"name": "MPII validation", "all": 2, "apart": 0}
    assert result["provenance"]["steps"] == 2
    assert (folder / "table.md").read_text().strip() == out.strip()
    assert "| mean pose | all (2) |" in out
    assert "wrist" in (folder / "mpii.csv").read_text()
    assert (folder / "mpii-people.png").stat().st_size > 5_000

    # The headline again, from the detector's own maps.
    people = pckh.open_people(config)
    variables = states.trained_variables(checkpoints.restore(run, config).state)
    maps = ViewDetector(config, variables).find(people.views)["heatmaps"]
    cells = maps.reshape(2, 16, 16).argmax(1)
    middles = (2 * np.stack([cells % 4, cells // 4], -1) + 1) / 4 - 1
    actual = np.array(result["examples"]["found"])
    assert np.abs(actual - middles).max() <= 2 * 0.25 / 4 + 1e-3
    near = np.linalg.norm(actual - people.joints, axis=-1) <= 0.5 * people.head_sizes[:, None]
    share = 100 * near.sum(0) / np.isfinite(people.joints[..., 0]).sum(0)
    joints = result["results"]["running"]["all"]["joints"]
    np.testing.assert_allclose(np.array(joints, float), share, atol=0.01)

    with pytest.raises(ConfigError, match=r"aflw-995: .* is a run on joints, scored by mpii alone"):
        run_evaluation.evaluate_run(run, protocol_names=["aflw-995"])
    refused = r"run: a run on joints cannot be packed; `landmarks-jax eval` scores it"
    with pytest.raises(WorkdirError, match=refused):
        pack_run.open_faces(run, {})
    with pytest.raises(WorkdirError, match=refused):
        pack_run.pack_run(run, [])  # as --noregressor does
    other = finished_run(tmp_path / "other")
    with pytest.raises(WorkdirError, match=r"run: a run on joints cannot be in this figure"):
        faces_figure.write([str(run), str(other)], tmp_path / "figure.png", {})


class CutOffError(BaseException):
    """Ends a run as a kill does: at once, with what is on the disk."""


def cut_off(save):
    def saving(self, *inputs):
        save(self, *inputs)
        self.wait()
        raise CutOffError

    return saving


def adapting(core_run, **fields):
    return narrow(
        init__mode="adapt",
        init__core=str(core_run),
        **TINY,
        optimizer__ema_decay=0.5,
        optimizer__weight_decay=1e-3,
        optimizer__clip_norm=1.0,
        **fields,
    )


@pytest.fixture(scope="module")
def adapted(core, tmp_path_factory):
    """Four steps of a run that is adapted from the core, cut off after two and resumed."""
    workdir = tmp_path_factory.mktemp("adapted") / "run"
    config = adapting(core[0])
    message: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            init_from._LOGGER, "info", lambda text, *values: message.append(text % values)
        )
        patch.setattr(checkpoints.Checkpoints, "save", cut_off(checkpoints.Checkpoints.save))
        with pytest.raises(CutOffError):
            loop.train(config, workdir)
    assert message[0].startswith(
        f"adapted by projections from the detector of {core[0]} (step 2, tr"
    )
    state = checkpoints.restore(workdir, config).state
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (state.params["detector"], state.core)
    ]
    assert message[0].endswith("weights {:,} train and {:,} are frozen".format(*counts))
    states_seen = [checkpoints.restore(workdir, config)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(init_from, "_read", lambda config: pytest.fail("the core is read again"))
        watched = watch_core(patch)
        assert loop.train(config, workdir) == 0
    states_seen.append(checkpoints.restore(workdir, config))
    return workdir, config, states_seen, watched


def watch_core(patch):
    """Which arrays hold the core before every step, and what steps carry of it in the state."""
    seen = []
    real = loop.compile_program

    def compile_program(*args, **options):
        program = real(*args, **options)

        def step(state, totals, canvases, frozen):
            leaves = jax.tree.leaves(frozen.core)
            seen.append(([leaf.unsafe_buffer_pointer() for leaf in leaves], state.core))
            return program.step(state, totals, canvases, frozen)

        return program._replace(step=step)

    patch.setattr(loop, "compile_program", compile_program)
    return seen


def test_frozen_weights_stay_to_the_bit_through_steps_an_end_and_a_resume(core, adapted):
    expected, _ = kernels(core[0])
    _, _, (early, late), watched = adapted
    assert (early.step, late.step) == (2, 4)
    for restored in (early, late):
        assert_same_bytes(flat_core(restored.state), expected)
    # Steps share them and carry no copy.
    assert len(watched) == 2
    assert watched[0] == watched[1]
    assert len(watched[0][0]) == 2
    assert watched[0][1] == {}

    before, after = (
        flax.traverse_util.flatten_dict(jax.device_get(r.state.params["detector"]))
        for r in (early, late)
    )
    projections = [path for path in after if path[-1] == "projection"]
    assert len(projections) == len(expected)
    for path in projections:
        assert np.any(after[path] != np.eye(len(after[path]))), path
    assert sum(np.any(after[path] != leaf) for path, leaf in before.items()) == 8
    assert not any(path[-1] == "kernel" and leaf.shape[0] == 3 for path, leaf in after.items())


def test_the_first_state_is_the_core_with_a_new_head(core, adapted):
    """At W = I the features before the head are the core's, to the bit."""
    run, config, *_ = adapted
    mesh = sharding.make_mesh()
    networks = task_of(config).build_networks(config)
    start = init_from.find(config, run.parent / "other", None)
    state = init_from.begin(start, config, zeros(config, mesh), mesh)
    _, variables = kernels(core[0])
    actual = states.trained_variables(state)
    views = np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 3)).astype(np.float32)

    @jax.jit
    def body(variables):
        _, seen = networks.detector.apply(
            variables, views, use_running_average=True, capture_intermediates=True
        )
        return seen["intermediates"]["last_norm"]["__call__"][0]

    stats = {"batch_stats": variables["batch_stats"]}
    whole = {**variables["params"], "head": jax.device_get(actual["params"]["head"])}
    inputs, expected = body(jax.device_get(actual)), body({"params": whole, **stats})
    assert np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(inputs, expected)
    assert actual["params"]["head"]["kernel"].shape == (1, 1, 8, 3)
    assert variables["params"]["head"]["kernel"].shape == (1, 1, 8, 16)
    jax.tree.map(np.testing.assert_array_equal, state.averaged, state.params)


def zeros(config, mesh):
    """A state as drawn, of zeros: what a core must replace shows."""
    like = states.abstract_state(config, task_of(config).build_networks(config), mesh)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    eyes = flax.traverse_util.flatten_dict(state.params["detector"])
    for path, leaf in eyes.items():
        if path[-1] == "projection":
            eyes[path] = np.eye(len(leaf), dtype=leaf.dtype)
    params = {**state.params, "detector": flax.traverse_util.unflatten_dict(eyes)}
    return sharding.put_replicated(mesh, dataclasses.replace(state, params=params))


def test_a_transfer_keeps_the_core_to_the_bit(core, adapted, tmp_path, caplog):
    run, config, (_, late), _ = adapted
    transfer_files.write(late, run, tmp_path / "handed")
    arrays = transfer_files.read(tmp_path / "handed").arrays
    assert arrays["params/detector/conv1/projection"].dtype == np.float16
    assert loop.train(config, tmp_path / "new", transfer_from=tmp_path / "handed") == 0
    restarted = checkpoints.restore(tmp_path / "new", config)
    assert restarted.step == 4
    assert_same_bytes(flat_core(restarted.state), kernels(core[0])[0])
    old, new = (run_folder.read_record(folder) for folder in (run, tmp_path / "new"))
    assert new.init == old.init
    assert new.init["mode"] == "adapt"


def test_export_folds_the_projections_into_a_plain_smaller_file(adapted, tmp_path):
    run, config, (_, late), _ = adapted
    path = tmp_path / "detector.safetensors"
    packed_file.write(path, pack_run.pack_run(run, []))
    content = packed_file.read(path)
    names = {p[-1] for p in flax.traverse_util.flatten_dict(dict(content.variables["params"]))}
    assert names == {"kernel", "bias", "scale"}
    detector = late.state.params["detector"]
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (detector, late.state)]
    unfolded = sizes[0] + sum(leaf.nbytes for leaf in jax.tree.leaves(late.state.core))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(content.variables["params"])) < unfolded
    views = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    ours = run_evaluation.detectors_of(config, late.state)
    actual = ViewDetector(content.config, content.variables)(views)
    np.testing.assert_allclose(actual, ours["running"](views), atol=1e-5)
    assert content.summary["notes"] == run_folder.read_record(run).all_notes()
    assert "adapted by projections from the detector of" in content.summary["notes"][0]


def test_fine_tuning_by_the_commands(core, tmp_path):
    start = {"init__mode": "finetune", "init__core": str(core[0]), **TINY}
    config = narrow(**start, model__num_landmarks=5)
    config.train.steps = 1
    code, _, err = call("train", *flags(config), f"--workdir={tmp_path}")
    assert code == 0, err
    assert f"fine-tuned from the detector of {core[0]}" in err
    assert "are frozen" not in err
    state = checkpoints.restore(tmp_path, config).state
    assert state.core == {}
    _, variables = kernels(core[0])
    actual = flax.traverse_util.flatten_dict(jax.device_get(state.params["detector"]))
    for path, leaf in flax.traverse_util.flatten_dict(variables["params"]).items():
        if path[0] != "head":  # Adam's first step is the learning rate at most
            np.testing.assert_allclose(actual[path], leaf, atol=1.01e-3)
    assert actual["head", "kernel"].shape == (1, 1, 8, 5)
    code, out, err = call("eval", f"--workdir={tmp_path}")
    assert code == 0, err
    assert f"Note: fine-tuned from the detector of {core[0]}" in out


def test_a_published_file_is_a_core(tmp_path):
    config = narrow(init__mode="adapt", init__core=str(CORE_FILE), data__canvas_size=40)
    config.views.size, config.model.hourglass_depth = 32, 2
    start = init_from.find(config, tmp_path, None)
    assert start.record["source"] == "a published PyTorch file"
    mesh = sharding.make_mesh()
    state = init_from.begin(start, config, zeros(config, mesh), mesh)
    actual = flax.traverse_util.flatten_dict(jax.device_get(states.trained_variables(state)))
    expected = flax.traverse_util.flatten_dict(
        published_networks.read_detector(CORE_FILE).variables
    )
    for path, leaf in expected.items():
        if path[:2] != ("params", "head"):
            np.testing.assert_array_equal(actual[path], leaf)
    assert not actual["params", "head", "kernel"].any()  # as drawn, here zeros
    assert len(state.core) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init__core": ""}, r"config\.init\.core = '': must be the folder of a run of"),
        ({"init__core": " "}, r"config\.init\.core = ' ': must be the folder of a run of"),
        ({"init__mode": "scratch"}, r"config\.init\.core = .*: must be '', or config\.init\.mode"),
        ({"init__mode": "frozen"}, r"config\.init\.mode = 'frozen': must be one of scratch"),
        ({"init__core": "no/such"}, r"config\.init\.core = 'no/such': no run and no file there"),
        ({"init__core": "tests"}, r"config\.init\.core = 'tests': no run and no file there"),
        ({"init__core": "README.md"}, r"config\.init\.core = 'README\.md': README\.md: "),
        (
            {"model__detector_channels": 16},
            r"its detector has detector_channels 8 and config\.model\.detector_channels is 16",
        ),
        (
            {"init__core": str(CORE_FILE), "model__detector": "hourglass"},
            r"core\.pth.*detector has hourglass_depth 2 and config\.model\.hourglass_depth is 1",
        ),
        (
            {"init__core": str(CORE_FILE)},
            r"its detector has detector hourglass and config\.model\.detector is tests\.tiny_det",
        ),
        (
            {"init__core": str(CORE_FILE.with_name("fan.pth"))},
            r"an adapted detector .* name that file with --core",
        ),
    ],
)
def test_what_cannot_start_is_said_before_anything_slow(
    fields, message, core, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_inputs, "load_frozen", lambda *_: pytest.fail("too late"))
    start = {"init__mode": "adapt", "init__core": str(core[0])}
    config = narrow(**{**TINY, **start, **fields})
    with pytest.raises(UserError, match=message) as error:
        loop.train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_that_starts_from_scratch_tells_no_start(tmp_path):
    config = narrow()
    assert init_from.find(config, tmp_path, None).notes() == []


def test_a_run_does_not_begin_anew_from_another_core(core, tmp_path):
    config = adapting(core[0])
    run_folder.claim(
        tmp_path,
        config,
        run_folder.Record(
            "", "", init={"mode": "adapt", "core": str(core[0]), "source": "", "sha256": "other"}
        ),
    )
    with pytest.raises(ConfigError, match=r"is not what .* was started with"):
        init_from.find(config, tmp_path, None)


def test_converted_networks_are_not_resumed_but_transferred_and_started_from(
    tmp_path,
):
    run = tmp_path / "run"
    config = narrow(views__size=32, data__canvas_size=40)
    config = import_published.import_run(run, config, detector=CORE_FILE)
    with pytest.raises(WorkdirError, match=r"no training to resume; .*init\.mode=finetune"):
        loop.train(config, run)
    transfer_files.write(checkpoints.restore(run, config), run, tmp_path / "handed")
    start = init_from.find(config, tmp_path / "other", transfer_files.read(tmp_path / "handed"))
    assert start.notes() == ["continued from published networks, converted from PyTorch"]
    finetuned = config.copy_and_resolve_references().unlock()
    finetuned.init.mode, finetuned.init.core = "finetune", str(run)
    assert init_from.find(finetuned, tmp_path / "other", None).record["source"].startswith("step 0")


def test_a_session_on_joints_refuses_photos_without_joints(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained"))
    config = pretraining("nowhere")
    options = {"start": 0.0, "minutes": 1, "reserve": 0}
    with pytest.raises(ConfigError, match="folders of photos have no joints"):
        timed_session.run_session(config, tmp_path / "run", tmp_path, photos=["p"], **options)
    config.eval.protocols = ("aflw-995",)
    with pytest.raises(ConfigError, match=r"--protocol aflw-995: .* is a run on joints"):
        timed_session.run_session(config, tmp_path / "run", tmp_path, **options)


def test_what_joints_cannot_be_trained_with(core):
    for field, value, message in (
        ("data__source", "celeba", r"config\.data\.source = 'celeba': must be mpii, or prepared"),
        ("model__num_landmarks", 10, r"config\.model\.num_landmarks = 10: must be 16"),
        ("data__crop", "tight", r"config\.data\.crop = 'tight': must be center"),
        ("perceptual__weights", "v.npz", r"config\.perceptual\.weights = 'v\.npz': must be ''"),
    ):
        config = pretraining("nowhere")
        section, _, name = field.partition("__")
        config[section][name] = value
        with pytest.raises(ConfigError, match=message):
            loop.train(config, Path("nowhere"))
