"""The demo without a browser: the download of the runtime, the folder of the page, the server."""

import base64
import hashlib
import http.client
import http.server
import io
import json
import os
import signal
import socket
import sys
import tarfile
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from landmarks_jax.inference import graph_export, packed_file
from landmarks_jax.inference.browser import server, site, vendor
from landmarks_jax.system.errors import ConfigError, WeightsError, WorkdirError
from tests.packing import SCORE, of_faces
from tests.running import call, command, finish


def package(names=tuple(vendor.FILES)) -> bytes:
    """An npm package whose files hold their own names, and one more file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in (*names, "package/../../outside"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return stream.getvalue()


# The files of that package.
CONTENTS = {
    name: file._replace(sha256=hashlib.sha256(name.encode()).hexdigest())
    for name, file in vendor.FILES.items()
}


def integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


@pytest.fixture
def registry(monkeypatch):
    """A local registry, which answers with `registry.data[registry.sent]`."""

    class Registry(http.server.BaseHTTPRequestHandler):
        data = package()
        sent = slice(None)
        asked = 0

        def do_GET(self):
            Registry.asked += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.data)))
            self.end_headers()
            self.wfile.write(self.data[self.sent])

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as answering:
        threading.Thread(target=answering.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(
            vendor, "URL", f"http://127.0.0.1:{answering.server_port}/onnxruntime-web-1.tgz"
        )
        monkeypatch.setattr(vendor, "INTEGRITY", integrity(Registry.data))
        monkeypatch.setattr(vendor, "FILES", CONTENTS)
        yield Registry
        answering.shutdown()


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_runtime_is_downloaded_once_and_unpacked_as_needed(registry, tmp_path):
    runtime = vendor.runtime(tmp_path / "cache")
    assert runtime == {file.name: name.encode() for name, file in vendor.FILES.items()}
    assert vendor.runtime(tmp_path / "cache") == runtime
    assert registry.asked == 1
    assert len(names_in(tmp_path)) == 2 + len(vendor.FILES)  # nothing else, and nothing outside


@pytest.mark.parametrize("damage", ["changed", "missing", "a pipe"])
def test_a_runtime_that_was_changed_is_refused(damage, registry, tmp_path):
    vendor.runtime(tmp_path)
    (folder,) = tmp_path.iterdir()
    file = folder / "ort-wasm.wasm"
    file.unlink()
    if damage == "changed":
        file.write_bytes(b"steal()")
    elif damage == "a pipe":
        os.mkfifo(file)
    with pytest.raises(
        WeightsError, match=f"^{file}: missing, damaged or changed; remove {folder}"
    ):
        vendor.runtime(tmp_path)


def test_another_package_is_refused(registry, tmp_path):
    registry.data = package(names=[*vendor.FILES, "package/more"])
    with pytest.raises(WeightsError, match=r"1\.tgz: not onnxruntime-web .* checksum"):
        vendor.runtime(tmp_path)
    assert not names_in(tmp_path)


def test_an_interrupted_download_leaves_nothing(registry, tmp_path):
    registry.sent = slice(40)
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(.*\); download this file"):
        vendor.runtime(tmp_path)
    assert not names_in(tmp_path)
    registry.sent = slice(None)
    assert len(vendor.runtime(tmp_path)) == len(vendor.FILES)


def test_a_package_without_the_files_is_refused(registry, tmp_path, monkeypatch):
    registry.data = package(names=["package/dist/ort.wasm.min.mjs"])
    monkeypatch.setattr(vendor, "INTEGRITY", integrity(registry.data))
    with pytest.raises(WeightsError, match="lacks a file that the page needs"):
        vendor.runtime(tmp_path)
    assert not names_in(tmp_path)


def test_without_network_the_error_says_which_file_to_put_where(tmp_path, monkeypatch):
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/onnxruntime-web-1.tgz"
        monkeypatch.setattr(vendor, "URL", url)
        with pytest.raises(WeightsError, match="refused") as raised:
            vendor.runtime(tmp_path)
        place = tmp_path / "onnxruntime-web-1.tgz"
        assert url in str(raised.value)
        assert str(raised.value).endswith(f"put it at {place}")
        place.write_bytes(b"something else")
        with pytest.raises(WeightsError, match=f"^{place}: not onnxruntime-web"):
            vendor.runtime(tmp_path)
        place.write_bytes(package())
        monkeypatch.setattr(vendor, "INTEGRITY", integrity(package()))
        monkeypatch.setattr(vendor, "FILES", CONTENTS)
        assert len(vendor.runtime(tmp_path)) == len(CONTENTS)


@pytest.fixture
def detector_file(packed_path, tmp_path, monkeypatch):
    """A packed detector; neither the converter nor the runtime is needed."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(packed_path.read_bytes())
    monkeypatch.setattr(vendor, "runtime", lambda: {"ort.js": b"// runtime"})
    monkeypatch.setattr(
        graph_export, "to_onnx", lambda packed, precision: f"ONNX of {precision}".encode()
    )
    return path


def test_the_folder_is_complete(detector_file, tmp_path):
    folder = tmp_path / "deep" / "page"
    site.build(detector_file, folder)
    assert json.loads((folder / "model.json").read_text()) == {
        "format": "landmarks_jax.demo",
        "name": "mine",
        "model": "model.onnx",
        "num_landmarks": 3,
        "view_size": 16,
        "canvas_size": 20,
        "crop": "center",
        "dot_scale": 1.0,
        "colors": ["#ff0000", "#1f5bff", "#00e600"],
        "num_labelled": 2,
        "landmark_names": [],
        "point_names": ["left eye", "right eye"],
        "score": SCORE,
        "finder": None,
        "face_frame": None,
    }
    assert not (folder / "faces.onnx").exists()
    assert (folder / "model.onnx").read_text() == "ONNX of float16"
    assert "Microsoft" in (folder / "runtime" / "LICENSE.onnxruntime.txt").read_text()
    assert (folder / "runtime" / "ort.js").read_text() == "// runtime"
    page = (folder / "index.html").read_text()
    for name in ("app.js", "style.css"):
        assert f'="{name}"' in page  # a relative address
        assert (folder / name).is_file()
    assert names_in(folder.parent).count("page") == len(list(folder.parent.iterdir())) == 1


def test_a_detector_of_faces_finds_them_with_the_extra(
    detector_file, packed, tmp_path, monkeypatch, caplog
):
    cv2 = pytest.importorskip("cv2", reason="the extra `faces` is not installed")
    packed_file.write(detector_file, of_faces(packed))
    frame = {"x": 0.1, "y": -0.2, "side": 1.5}
    site.build(detector_file, tmp_path / "page")
    description = json.loads((tmp_path / "page" / "model.json").read_text())
    assert (description["finder"], description["face_frame"]) == ("faces.onnx", frame)
    network = cv2.dnn.readNetFromONNX(str(tmp_path / "page" / "faces.onnx"))
    network.setInput(np.zeros((1, 3, 64, 96), np.float32))
    assert network.forward("bbox_16").shape == (1, 24, 4)
    assert "Shiqi Yu" in (tmp_path / "page" / "LICENSE.yunet.txt").read_text()
    assert "one face must fill" not in caplog.text

    monkeypatch.setitem(sys.modules, "cv2", None)
    site.build(detector_file, tmp_path / "page")
    description = json.loads((tmp_path / "page" / "model.json").read_text())
    assert (description["finder"], description["face_frame"]) == (None, frame)
    assert not (tmp_path / "page" / "faces.onnx").exists()
    assert caplog.text.count("one face must fill the frame; finding faces needs the extra") == 1


def test_an_earlier_page_is_replaced_and_other_files_are_kept(detector_file, tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    site.build(detector_file, folder)
    (folder / "runtime" / "old").touch()
    site.build(detector_file, folder)
    assert not (folder / "runtime" / "old").exists()
    (folder / "CNAME").write_text("landmarks.example")  # belongs to the web host
    with pytest.raises(WorkdirError, match=r"page: holds other files \(CNAME\); name a new"):
        site.build(detector_file, folder)
    assert (folder / "CNAME").read_text() == "landmarks.example"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "model.json").write_text("[]")
    with pytest.raises(WorkdirError, match="photos: holds other files"):
        site.build(detector_file, other)
    assert names_in(other) == ["model.json"]
    with pytest.raises(WorkdirError, match=r"mine\.safetensors: cannot be written \(Not a dir"):
        site.build(detector_file, detector_file)
    (other / "model.json").unlink()
    os.mkfifo(other / "model.json")
    with pytest.raises(WorkdirError, match="photos: holds other files"):
        site.build(detector_file, other)
    # Through a link the folder that it names is built.
    (tmp_path / "host").mkdir()
    (tmp_path / "link").symlink_to("host")
    site.build(detector_file, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "host" / "index.html").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(WorkdirError, match="cannot be written"):
        site.build(detector_file, tmp_path / "file" / "page")


@pytest.mark.parametrize(
    ("hosts", "code"),
    [
        (["127.0.0.1:{port}"], 200),
        (["localhost:{port}"], 200),
        (["LOCALHOST"], 200),
        (["[::1]:1"], 200),
        (["attacker.example"], 403),
        (["attacker.example:{port}"], 403),
        (["localhost.attacker.example:{port}"], 403),
        (["127.0.0.1.attacker.example"], 403),
        (["127.0.0.2:{port}"], 403),
        (["attacker@127.0.0.1"], 403),
        (["127.0.0.1", "attacker.example"], 403),
        ([""], 403),
        ([], 403),
    ],
)
def test_requests_by_the_name_of_another_site_are_refused(hosts, code, tmp_path):
    (tmp_path / "index.html").write_text("the page")
    with server.Server(tmp_path, 0) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
        for method in ("GET", "HEAD"):
            connection = http.client.HTTPConnection("127.0.0.1", serving.server_port, timeout=10)
            connection.putrequest(method, "/", skip_host=True)
            for host in hosts:
                connection.putheader("Host", host.format(port=serving.server_port))
            connection.endheaders()
            answer = connection.getresponse()
            assert answer.status == code
            assert (b"the page" in answer.read()) == (code == 200 and method == "GET")
            connection.close()
        serving.shutdown()


def test_a_bug_of_the_server_shows_its_trace_but_a_closed_connection_nothing(tmp_path, capsys):
    with server.Server(tmp_path, 0) as serving:
        for error in (BrokenPipeError("no reader"), ValueError("a bug")):
            try:
                raise error
            except (OSError, ValueError):
                serving.handle_error(None, ("127.0.0.1", 1))
    shown = capsys.readouterr().err
    assert "ValueError: a bug" in shown
    assert "no reader" not in shown


def test_the_server_names_types_and_isolates_the_page(tmp_path):
    types = {
        "index.html": "text/html; charset=utf-8",
        "app.js": "text/javascript; charset=utf-8",
        "ort.mjs": "text/javascript; charset=utf-8",
        "ort-wasm.wasm": "application/wasm",
        "model.json": "application/json",
        "model.onnx": "application/octet-stream",
    }
    for name in types:
        (tmp_path / name).write_text("x")
    with server.Server(tmp_path, 0) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
        assert serving.server_address[0] == "127.0.0.1"
        for name, kind in types.items():
            with urllib.request.urlopen(serving.url + name, timeout=10) as answer:
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        with pytest.raises(ConfigError, match=rf"--port {serving.server_port}: cannot be opened"):
            server.Server(tmp_path, serving.server_port)
        serving.shutdown()
    with pytest.raises(ConfigError, match="--port 70000: cannot be opened"):
        server.Server(tmp_path, 70000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_a_signal(tmp_path, number):
    # Background jobs of a shell start with SIGINT ignored.
    code = """
import pathlib, signal
from landmarks_jax.inference.browser import server, site
signal.signal(signal.SIGINT, signal.default_int_handler)
def build(detector, folder):
    folder.mkdir()
    (folder / "index.html").write_text(detector)
site.build = build
server.show("mine", 0)
"""
    process = command("-u", code=code, TMPDIR=str(tmp_path))
    line = process.stdout.readline()
    with urllib.request.urlopen(line.split()[0], timeout=10) as answer:
        assert answer.read() == b"mine"
    process.send_signal(number)
    assert finish(process) == (0, "", "")
    assert not names_in(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.safetensors", "--port", "0"], "error: none.safetensors: no such file"),
        (["none.safetensors", "--build", "{}/new"], "error: none.safetensors: no such file"),
        (["a", "b"], "error: unknown argument 'b'"),
        (["--port", "many"], "error: flag --port=many"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message, tmp_path):
    code, out, err = call("demo", *(argument.format(tmp_path) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not names_in(tmp_path)
