"""The page on this machine: a small HTTP server on the loopback interface."""

import contextlib
import functools
import http.server
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from landmarks_jax.system.errors import ConfigError, reason

HOST = "127.0.0.1"
# What a browser on this machine may call it; requests name the port too.
_OWN_NAMES = re.compile(rf"(localhost|{re.escape(HOST)}|\[::1\])(:\d+)?", re.IGNORECASE)
# The first two make the page "cross-origin isolated", without which it may not use threads.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # the next server on this port may show another detector
}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder to this machine."""

    # Explicit, because the tables of some systems are wrong.
    extensions_map = {  # noqa: RUF012
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".txt": "text/plain; charset=utf-8",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def send_head(self) -> Any:
        """Answers GET and HEAD, if they are for this machine."""
        return self.answer() if self.is_for_this_machine() else None

    def answer(self) -> Any:
        """Answers GET and HEAD; returns the file to send, or None."""
        return super().send_head()

    def is_for_this_machine(self) -> bool:
        """Whether a request names this machine by one of its own names; refuses it otherwise.

        Any other site could give its name this machine's address, and its pages would then be of
        the same origin as these (DNS rebinding).
        """
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _OWN_NAMES.fullmatch(hosts[0].strip()):
            self.send_error(http.HTTPStatus.FORBIDDEN, f"this server is {self.server.url}")  # type: ignore[attr-defined]
            return False
        return True

    def end_headers(self) -> None:
        """Sends `HEADERS` too."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on the loopback interface.

    Attributes:
      url: address of the page.
    """

    daemon_threads = True
    allow_reuse_port = False  # a second server on the same port would get half of the requests

    def __init__(self, folder: Path, port: int, handler: type[Handler] = Handler) -> None:
        """Opens the port; call `serve_forever` to answer requests.

        Args:
          folder: the folder to serve.
          port: 0 takes any free one.
          handler: answers the requests.

        Raises:
          ConfigError: the port is in use or invalid.
        """
        try:
            super().__init__((HOST, port), functools.partial(handler, directory=str(folder)))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--port {port}: cannot be opened ({reason(error)}); 0 takes any free port"
            ) from error
        self.url = f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores browsers that close the connection; prints the trace of anything else."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def show(detector: str, port: int) -> None:
    """Builds the page of a detector and serves it until Ctrl-C or SIGTERM.

    Args:
      detector: as for `site.build`.
      port: 0 takes any free one.

    Raises:
      UserError: the detector, the runtime or the port is not available.
    """
    # Only here: it imports JAX, which other pages do not need.
    from landmarks_jax.inference.browser import site  # noqa: PLC0415

    with (
        sigterm_as_interrupt(),
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="landmarks_jax-demo-") as scratch,
        Server(Path(scratch) / "page", port) as server,  # first: a port in use fails at once
    ):
        site.build(detector, Path(scratch) / "page")
        print(f"{server.url} shows the page; press Ctrl-C to stop", flush=True)
        server.serve_forever()


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM raise `KeyboardInterrupt`, so that temporary files are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
