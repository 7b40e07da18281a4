"""Downloads from a local server: resumed, restarted, and refused if they differ."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

from landmarks_jax.system.errors import WeightsError
from landmarks_jax.weights.download import VGG, Published, download

CONTENT = np.random.default_rng(0).bytes(300_000)
KNOWN = len(CONTENT) // 3  # bytes of an earlier call


class Server(http.server.BaseHTTPRequestHandler):
    """Behaves as the folder of the address says; `asked` has the requested ranges."""

    asked: list[str | None]

    def do_GET(self):
        kind = self.path.split("/")[1]
        requested = self.headers["Range"]
        type(self).asked.append(requested)
        content, start = CONTENT, 0
        if kind == "longer":
            content += bytes(50)
        if kind == "other":
            content = bytes(len(CONTENT))
        if kind == "missing" or (kind == "unsatisfiable" and requested):
            self.send_error(404 if kind == "missing" else 416)
            return
        if requested and kind != "whole":
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            first = 0 if kind == "wrong-part" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if kind == "breaks" else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def published(server, kind):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Published(f"{server}/{kind}/file.pth", len(CONTENT), digest)


def test_a_file_is_downloaded_once(tmp_path, server, caplog):
    path = tmp_path / "new" / "file.pth"
    file = published(server, "ranges")
    with caplog.at_level("INFO", logger="landmarks_jax"):
        download(file, path)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.pth"]
    messages = [record.getMessage().split() for record in caplog.records]
    assert messages == [
        ["address", file.url],
        ["size", "300000", "bytes"],
        ["sha256", file.sha256],
    ]
    download(file, path)
    assert Server.asked == [None]


@pytest.mark.parametrize("kind", ["ranges", "whole", "unsatisfiable"])
def test_a_download_is_resumed_if_the_server_can(tmp_path, server, kind):
    path = tmp_path / "file.pth"
    (tmp_path / "file.pth.part").write_bytes(CONTENT[:KNOWN])
    download(published(server, kind), path)
    assert path.read_bytes() == CONTENT
    again = [None] if kind == "unsatisfiable" else []
    assert Server.asked == [f"bytes={KNOWN}-", *again]


def test_an_interrupted_download_is_resumed(tmp_path, server):
    path = tmp_path / "file.pth"
    with pytest.raises(WeightsError, match=r"stopped after 150000 of 300000 bytes.*to resume"):
        download(published(server, "breaks"), path)
    assert not path.exists()
    assert (tmp_path / "file.pth.part").read_bytes() == CONTENT[:150_000]
    download(published(server, "ranges"), path)
    assert path.read_bytes() == CONTENT
    assert Server.asked == [None, "bytes=150000-"]


@pytest.mark.parametrize(
    "part", [CONTENT, CONTENT + b"more", b""], ids=["whole", "longer", "empty"]
)
def test_whatever_an_earlier_call_left(tmp_path, server, part):
    (tmp_path / "file.pth.part").write_bytes(part)
    download(published(server, "ranges"), tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT
    assert Server.asked == ([] if part == CONTENT else [None])


@pytest.mark.parametrize("kind", ["other", "longer"])
def test_another_file_is_refused_and_not_kept(tmp_path, server, kind):
    file = published(server, kind)
    with pytest.raises(WeightsError, match="not the expected file") as error:
        download(file, tmp_path / "file.pth")
    assert file.sha256 in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_refused_and_the_next_call_restarts(tmp_path, server):
    (tmp_path / "file.pth.part").write_bytes(bytes(KNOWN))
    with pytest.raises(WeightsError, match="not the expected file"):
        download(published(server, "ranges"), tmp_path / "file.pth")
    download(published(server, "ranges"), tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT


def test_another_file_of_that_name_is_kept(tmp_path, server):
    (tmp_path / "file.pth").write_bytes(b"mine")
    with pytest.raises(WeightsError, match=r"file\.pth: another file of this name"):
        download(published(server, "ranges"), tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == b"mine"
    assert not Server.asked


@pytest.mark.parametrize(
    ("kind", "message"), [("missing", "404"), ("wrong-part", "received 'bytes 0-")]
)
def test_servers_that_fail(tmp_path, server, kind, message):
    (tmp_path / "file.pth.part").write_bytes(CONTENT[:KNOWN])
    with pytest.raises(
        WeightsError, match=rf"/{kind}/file\.pth: cannot be downloaded.*{message}"
    ) as e:
        download(published(server, kind), tmp_path / "file.pth")
    assert "\n" not in str(e.value)
    assert (tmp_path / "file.pth.part").read_bytes() == CONTENT[:KNOWN]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://no.such.host.invalid/x", "x"])
def test_no_network(tmp_path, url):
    with pytest.raises(WeightsError, match=rf"{url}: cannot be downloaded.*--file"):
        download(Published(url, 5, "0"), tmp_path / "x")


@pytest.mark.parametrize("file", VGG.values(), ids=VGG)
def test_the_official_names_begin_their_checksums(file):
    # torchvision names its files NAME-HHHHHHHH.pth after the SHA-256.
    stem = file.url.rpartition("/")[2].removesuffix(".pth")
    assert file.sha256.startswith(stem.rpartition("-")[2])
    assert len(bytes.fromhex(file.sha256)) == 32
