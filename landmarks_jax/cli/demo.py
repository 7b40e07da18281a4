"""Show a web page that finds landmarks in images you drop, or in the camera's.

landmarks-jax demo [DETECTOR] [--port 8000]
landmarks-jax demo faces --build site

DETECTOR is a file of `landmarks-jax export`, or the name of a detector that comes with the package;
default: faces. Landmarks are computed in the browser: no image leaves the visitor's machine. With
the extra `faces` the page finds all faces in an image; without it, one must fill the frame. The
server answers this machine only; the folder that --build makes can be put on any web host, under
any path. ONNX Runtime Web is downloaded once, into ~/.cache/landmarks_jax (or
$XDG_CACHE_HOME/landmarks_jax).
"""

from pathlib import Path

from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system.errors import UserError

_FLAGS = (
    Flag("port", "Port to serve at; 0 takes any free one.", 8000, kind=int),
    Flag("build", "Write the page to this folder, and serve nothing."),
)


def _run(call: Call) -> None:
    if len(call.arguments) > 1:
        raise UserError(f"unknown argument {call.arguments[1]!r}; one DETECTOR is shown at a time")
    from landmarks_jax.inference.browser import server, site  # noqa: PLC0415

    detector = call.arguments[0] if call.arguments else "faces"
    folder = call.flags.build
    if folder is None:
        server.show(detector, call.flags.port)
    else:
        site.build(detector, Path(folder))
        print(f"{folder}: the page; any web host can serve it, for example")
        print(f"python -m http.server --bind 127.0.0.1 --directory {folder}")


COMMAND = Command(_run, _FLAGS, arguments="[DETECTOR]")
