"""The page that labels photos, on this machine: serves photos and saves points."""

import contextlib
import io
import json
import re
import urllib.parse
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from landmarks_jax.data import photo_files
from landmarks_jax.data.formats.records import are_point_names
from landmarks_jax.inference import photo_choice
from landmarks_jax.inference.browser import server
from landmarks_jax.inference.browser.label_session import Session
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, UserError

_FOLDER = Path(__file__).parent
_PAGE = _FOLDER / "label_page"
_SHARED = ("messages.js", "style.css")  # with the page that finds landmarks
_PHOTO = re.compile(r"/photos/(\d{1,9})", re.ASCII)
_MAX_BODY = 1 << 20  # bytes


class Handler(server.Handler):
    """Serves the page, `session.json` and `photos/N`; takes points at `points`."""

    server: "LabelServer"

    def translate_path(self, path: str) -> str:
        """The file of the page that a path of a request leads to."""
        name = self._path().removeprefix("/")
        return str(_FOLDER / "page" / name) if name in _SHARED else super().translate_path(path)

    def answer(self) -> Any:
        """Answers GET and HEAD; returns the file to send."""
        session = self.server.session
        if self._path() == "/session.json":
            return self._reply(json.dumps(session.describe()), "application/json")
        match = _PHOTO.fullmatch(self._path())
        if not match:
            return super().answer()
        if int(match[1]) >= len(session.photos):
            return self._refuse(HTTPStatus.NOT_FOUND, "no such photo")
        try:
            return self._reply(session.jpeg(int(match[1])), "image/jpeg")
        except UserError as error:
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def do_POST(self) -> None:  # noqa: N802
        """Saves the points of a photo, if the page itself sends them.

        Browsers say in `Origin` which site sends a request; any site can send one here.
        """
        if self.is_for_this_machine():
            with self._save() as body:
                self.wfile.write(body.read())

    def _save(self) -> io.BytesIO:
        if self.headers.get_all("Origin", []) != [f"http://{self.headers['Host'].strip()}"]:
            return self._refuse(HTTPStatus.FORBIDDEN, "only this server's own page may send points")
        if self._path() != "/points":
            return self._refuse(HTTPStatus.NOT_FOUND, "nothing takes points here")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and int(length) <= _MAX_BODY):
            return self._refuse(
                HTTPStatus.BAD_REQUEST, "the points have no length, or are too many"
            )
        try:
            sent = json.loads(self.rfile.read(int(length)))
            labelled = self.server.session.save(sent["photo"], sent["points"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, f"not the points of a photo: {error}")
        except UserError as error:
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        return self._reply(json.dumps({"labelled": labelled}), "application/json")

    def _path(self) -> str:
        return urllib.parse.urlsplit(self.path).path

    def _refuse(self, code: HTTPStatus, why: str) -> io.BytesIO:
        return self._reply(why, "text/plain; charset=utf-8", code)

    def _reply(self, body: str | bytes, kind: str, code: HTTPStatus = HTTPStatus.OK) -> io.BytesIO:
        """Sends the head of an answer; returns its body."""
        data = body.encode(errors="replace") if isinstance(body, str) else body
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return io.BytesIO(data)


class LabelServer(server.Server):
    """Serves the page; set `session` before `serve_forever`.

    Attributes:
      session: the photos and their labels.
    """

    session: Session

    def __init__(self, port: int) -> None:
        """Opens the port; see `server.Server`."""
        super().__init__(_PAGE, port, Handler)


def show(
    folders: Sequence[str],
    names: Sequence[str],
    out: Path,
    *,
    count: int,
    detector: str | None,
    port: int,
) -> None:
    """Serves the page that labels photos until Ctrl-C or SIGTERM.

    Args:
      folders: of photos, searched recursively.
      names: of the points.
      out: the file of labels; an earlier one of the same points is continued.
      count: how many photos to label; those that differ most are chosen.
      detector: a packed file or shipped detector whose landmarks say how photos differ, or None.
      port: 0 takes any free one.

    Raises:
      UserError: photos, detector or port are not available, `out` is of other points or cannot be
        written, or another process writes it.
    """
    if not are_point_names(names):
        raise ConfigError("--points: names must be different, of printable characters")
    if out.suffix.lower() != ".csv":
        raise ConfigError(f"--out {out}: must end in .csv")
    files.check_writable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        server.sigterm_as_interrupt(),
        files.lock(out.with_name(f".{out.name}.lock"), what=out),
        LabelServer(port) as serving,
    ):
        serving.session = session = Session(out, names)
        describe = photo_choice.describer(detector)
        photos, note = photo_files.usable_files(folders)
        if note:
            print(note)
        session.choose(photos, count, describe)
        print(f"{serving.url} shows the page; press Ctrl-C to stop", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            serving.serve_forever()
        done = f"{session.labelled} of {len(session.photos)} photos labelled"
        print(f"{out}: {done}; the same command continues")
