"""docs/tutorial.ipynb: executed with a narrow model, and its stored outputs checked.

`jupyter execute --inplace docs/tutorial.ipynb` renews the outputs.
"""

import csv
import importlib.util
import json
import re

import numpy as np
import pytest
from PIL import Image

from landmarks_jax import load_detector
from tests.running import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
MAX_BYTES = 300_000
# What replaces the cell tagged `parameters`, below a line that sets FOLDER.
SMALL = """
NUM_IMAGES, NUM_FIT, NUM_SCORE, STEPS = 24, 12, 8, 4
OPTIONS = [
    "--config.targets.network=hog",
    "--config.targets.grid=2",
    "--config.targets.keep=3",
    "--config.targets.merge=(3,)",
    "--config.targets.view_size=32",
    "--config.data.canvas_size=20",
    "--config.views.size=16",
    "--config.model.num_landmarks=3",
    "--config.model.detector_channels=8",
    "--config.model.hourglass_depth=1",
    "--config.train.batch_size=8",
    "--config.train.picture_every=2",
]
"""
VALUES = """
import json

print(json.dumps({
    "folder": os.getcwd(),
    "landmarks": found.landmarks.tolist(),
    "confidence": found.confidence.tolist(),
    "labelled": found.labelled.tolist(),
    "shown": table.split("###")[1],
    "report": report,
}))
"""


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text())["cells"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder that an execution in `docs` filled, and the values of its variables."""
    missing = [m for m in ("nbclient", "ipykernel") if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed (extra `test`)")
    import nbclient  # noqa: PLC0415
    import nbformat  # noqa: PLC0415

    folder, own = tmp_path_factory.mktemp("tutorial"), tmp_path_factory.mktemp("jupyter")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    parameters.source = f"from pathlib import Path\n\nFOLDER = Path({str(folder)!r})\n{SMALL}"
    notebook.cells.append(nbformat.v4.new_code_cell(VALUES))
    with pytest.MonkeyPatch.context() as patch:
        # Nothing of the user's is read or written: kernels, settings, history, caches.
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(own / name))
        patch.setenv("XDG_CACHE_HOME", str(own / "cache"))
        client = nbclient.NotebookClient(
            notebook, timeout=240, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
        )
        client.execute()
    (output,) = notebook.cells[-1].outputs
    return folder, json.loads(output.text)


@pytest.mark.slow
def test_it_trains_and_scores(executed):
    folder, values = executed
    assert values["folder"] == str(ROOT)
    assert sorted(p.name for p in (folder / "run" / "pictures").iterdir()) == [
        "step-000002.png",
        "step-000004.png",
    ]
    assert values["report"]["photos"] == {"used": 24, "all": 24}
    assert len(values["report"]["points"]) == 3
    result = json.loads((folder / "run" / "evaluation" / "fit-to-score-tight.json").read_text())
    assert (result["fit"]["faces"], result["score"]["faces"]) == (12, 8)
    forward = result["results"]["running"]["forward"][-1]["mean"]
    assert 0 < forward < 1000
    assert f"| this detector (running statistics) | {forward:.2f} |" in values["shown"]
    summary = load_detector(folder / "detector.safetensors").summary
    assert summary["scores"][0]["forward"] == pytest.approx(forward, abs=1e-3)


@pytest.mark.slow
def test_its_detector_finds_the_same_in_python_and_on_the_command_line(executed):
    folder, values = executed
    landmarks = np.array(values["landmarks"])
    assert landmarks.shape == (6, 3, 2)
    assert np.array(values["labelled"]).shape == (6, 5, 2)
    assert ((landmarks > 0) & (landmarks < 159)).all()
    with (folder / "found" / "landmarks.csv").open() as table:
        rows = list(csv.DictReader(table))
    for k in range(3):
        written = [[float(row[f"{axis}{k + 1}"]) for axis in "xy"] for row in rows]
        np.testing.assert_allclose(landmarks[:, k], written, atol=0.01)
    files = sorted((folder / "new").iterdir())
    again = load_detector(folder / "detector.safetensors")(
        [np.asarray(Image.open(file)) for file in files]
    )
    np.testing.assert_allclose(again.landmarks, landmarks, atol=1e-3)
    np.testing.assert_allclose(again.confidence, values["confidence"], atol=1e-3)


def test_the_stored_outputs_come_from_one_complete_run():
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 4
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    printed = "".join(line for output in outputs for line in output.get("text", ()))
    source = "".join(line for cell in code for line in cell["source"])
    for pattern, line in (("NUM_IMAGES", "{} images"), ("STEPS", "\nstep {}  loss")):
        value = re.search(rf"^{pattern} = (\d+)", source, re.MULTILINE)[1]
        assert line.format(value) in printed
    # The verdict of training, and that of the report's file.
    assert "Settled. " in printed
    assert "\nsettled: " in printed
