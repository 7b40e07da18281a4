"""The page on this machine: a small HTTP server that nobody else can reach."""

import contextlib
import http.server
import signal
import tempfile
from pathlib import Path
from typing import Any

from landmarks_jax.inference.browser import site
from landmarks_jax.system.errors import ConfigError

HOST = "127.0.0.1"
# The first two make a page "cross-origin isolated": only then may it use threads.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # another detector may be at the same port next time
}


class _Handler(http.server.SimpleHTTPRequestHandler):
    # Said here and not left to the system, whose tables are wrong on some machines.
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

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: requests are of no interest here."""


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on the loopback interface.

    Attributes:
      url: where the page is.
    """

    daemon_threads = True
    allow_reuse_port = False  # a second server at the same port would get half of the requests

    def __init__(self, folder: Path, port: int) -> None:
        """Opens the port; `serve_forever` then answers.

        Args:
          folder: what to serve.
          port: 0 takes any that is free.

        Raises:
          ConfigError: the port cannot be had.
        """

        def handler(*arguments: Any) -> _Handler:
            return _Handler(*arguments, directory=str(folder))

        try:
            super().__init__((HOST, port), handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--port {port}: cannot be opened ({error}); give another one, 0 takes any free"
            ) from error
        self.url = f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a browser that closed its end."""


def show(detector: str, port: int) -> None:
    """Makes the page of a detector and serves it until Ctrl-C or SIGTERM.

    Args:
      detector: as for `site.build`.
      port: 0 takes any that is free.

    Raises:
      UserError: the detector, the runtime or the port cannot be had.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends in order, as by Ctrl-C
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="landmarks_jax-demo-") as scratch,
        Server(Path(scratch) / "page", port) as server,  # first: a port in use is said at once
    ):
        site.build(detector, Path(scratch) / "page")
        print(f"{server.url} shows the page; Ctrl-C ends it", flush=True)
        server.serve_forever()
