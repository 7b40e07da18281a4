"""`landmarks-jax report`: its files and page, and what it refuses."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest

from landmarks_jax import load_detector
from landmarks_jax.data import framing
from landmarks_jax.evaluation import run_report, symmetry
from tests import browsing
from tests.running import TINY, call, finished_run, narrow, write_photos

ODD = "<img src=x onerror=alert(1)> & 'co.jpg"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on photos of noise, one of them with an odd name, and its report."""
    home = tmp_path_factory.mktemp("report")
    write_photos(home / "photos", 12)
    (home / "photos/000001.jpg").rename(home / "photos" / ODD)
    config = narrow(data__source="folder", data__roots=(str(home / "photos"),), **TINY)
    workdir = finished_run(home / "my run", config)
    code, out, err = call("report", str(workdir))
    assert code == 0, err
    return workdir, out


def test_the_files_of_a_report(run):
    workdir, out = run
    result = json.loads((workdir / "report.json").read_text())
    assert result["verdict"] == "failed"  # its parameters are drawn
    assert len(result["points"]) == 3
    assert result["photos"] == {"used": 12, "all": 12}
    assert result["progress"]["step"] == 4
    assert result["progress"]["photos"] == "noise"
    # 1 / step from 1 to 4: the last row over the one before.
    assert result["progress"]["fall"] == pytest.approx(1 - 3 / 4)
    assert f"Failed. {result['reason']}" in out
    assert [line.split(" | ")[1:3] for line in out.splitlines() if line.startswith("| 0")] == [
        [result["points"][0]["verdict"], f"{result['points'][0]['reason']} |"]
    ]
    assert out.strip().endswith(f"{workdir}/report.html")


def test_the_page_is_one_file_and_escapes_names(run):
    workdir, _ = run
    page = (workdir / "report.html").read_text()
    result = json.loads((workdir / "report.json").read_text())
    assert "url(" not in page
    assert set(re.findall(r'(?:src|href)="([^"]{1,22})', page)) == {"data:image/png;base64,"}
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; &#x27;co.jpg" in page
    assert "Landmarks of my run" in page
    assert result["advice"] in page
    assert page.count('class="swatch"') == 3
    assert page.count("<tr>") == 1 + 3


def test_what_is_measured_and_shown_is_of_the_photos_named(run, monkeypatch):
    workdir, _ = run
    monkeypatch.setattr(run_report, "_PHOTOS", 3)
    measured = run_report.measure_run(workdir)
    photos = symmetry.photos_of_run(measured.config)
    assert [photos.names().index(name) for name in measured.names] == [0, 5, 11]
    canvases = photos.canvases(np.array([0, 5, 11]))
    views = framing.of_config(measured.config).central_view(canvases)
    np.testing.assert_array_equal(measured.views, views)
    assert measured.landmarks.shape == (3, 3, 2)


def test_a_report_is_replaced(run):
    workdir, _ = run
    (workdir / "report.html").write_text("old")
    run_report.report(workdir)
    assert (workdir / "report.html").read_text().startswith("<!doctype html>")
    assert not list(workdir.glob(".*report.*"))


def test_commands_to_go_on(run, tmp_path, monkeypatch):
    workdir, _ = run
    result = json.loads((workdir / "report.json").read_text())
    result["reliable"] = [0, 2]
    export, label, score = run_report.report_page.commands(result)
    assert export == (
        f"landmarks-jax export --workdir '{workdir}' --noregressor --landmarks 0,2 "
        "--out mine.safetensors"
    )
    assert label.startswith(f"landmarks-jax label {workdir.parent}/photos --points NAME1,NAME2 ")
    result["roots"] = [f"{number}.jpg" for number in range(2_000)]
    assert run_report.report_page.commands(result)[1].startswith("landmarks-jax label photos/ --")
    assert score == f"landmarks-jax eval --workdir '{workdir}' --landmarks 0,2 --fit labels.csv"
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*shlex.split(export)[1:])
    assert code == 0, err
    assert load_detector("mine.safetensors").num_landmarks == 2
    result["reliable"] = [0, 1, 2]
    assert "--landmarks" not in run_report.report_page.commands(result)[0]


def test_what_is_refused(run, tmp_path):
    workdir, _ = run

    def refused(folder, text):
        code, _, err = call("report", str(folder))
        assert code == 2
        assert text in err
        assert err.count("\n") == 1

    refused(tmp_path, "config.json: no such file")
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints")
    refused(copy, "has no checkpoint yet; train it first")
    shutil.copytree(workdir / "checkpoints", copy / "checkpoints")
    photos = workdir.parent / "photos"
    photos.rename(workdir.parent / "moved")
    refused(copy, f"{photos}")
    (workdir.parent / "moved").rename(photos)
    assert not (tmp_path / "run/.report.html").exists()
    code, _, err = call("report")
    assert (code, err) == (2, "error: give the folder of a run; --help says more\n")


def test_a_run_on_joints_is_refused(tmp_path):
    config = narrow(objective__task="pose", data__source="mpii", model__num_landmarks=16)
    workdir = tmp_path / "joints"
    workdir.mkdir()
    (workdir / "config.json").write_text(run_report.run_folder.configuration.to_json(config))
    code, _, err = call("report", str(workdir))
    assert code == 2
    assert "a run on joints cannot be reported on" in err


@pytest.mark.slow
def test_the_page_on_a_phone(run, tmp_path):
    """No sideways scrolling at 390 pixels, readable text, in the dark too; no request."""
    workdir, _ = run
    browser = browsing.open_browser(tmp_path)
    try:
        colors = set()
        for scheme in ("light", "dark"):
            device = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            browser.get((workdir / "report.html").as_uri())
            width, ground, size = browser.execute_script(
                "const cell = document.querySelector('#points td.text');"
                "return [document.documentElement.scrollWidth,"
                " getComputedStyle(document.body).backgroundColor,"
                " parseFloat(getComputedStyle(cell).fontSize)]"
            )
            assert width <= 390
            assert size >= 14
            colors.add(ground)
            broken = "return [...document.images].filter((image) => !image.naturalWidth).length"
            assert browser.execute_script(broken) == 0
        assert len(colors) == 2
        assert browsing.hosts(browser) == set()
    finally:
        browser.quit()
