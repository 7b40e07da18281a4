"""Shows a page where one drops pictures or opens the camera and sees the landmarks at once.

python demo.py [DETECTOR] [--port 8000]
python demo.py [DETECTOR] --build DIR

DETECTOR is a file made by export.py, or the name of a detector that comes with this package;
without it, "faces". Landmarks are found in the browser: no picture leaves the visitor's machine.
The server answers this machine alone; the folder that --build makes can be put on any web host,
under any path. ONNX Runtime Web is downloaded once, into ~/.cache/landmarks_jax (or
$XDG_CACHE_HOME/landmarks_jax).
"""

from pathlib import Path

from absl import flags

from landmarks_jax.cli import entry
from landmarks_jax.system.errors import UserError

_PORT = flags.DEFINE_integer("port", 8000, "Where to serve; 0 takes any free port.")
_BUILD = flags.DEFINE_string("build", None, "Make the page as this folder, and serve nothing.")


def main(arguments: list[str]) -> None:
    """Serves the page or builds it."""
    if len(arguments) > 1:
        raise UserError(f"unknown argument {arguments[1]!r}; one DETECTOR is shown at a time")
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.inference.browser import server, site  # noqa: PLC0415

    detector = arguments[0] if arguments else "faces"
    if _BUILD.value is None:
        server.show(detector, _PORT.value)
    else:
        site.build(detector, Path(_BUILD.value))
        print(f"{_BUILD.value}: the page; any web host can serve it, for example")
        print(f"python -m http.server --bind 127.0.0.1 --directory {_BUILD.value}")


if __name__ == "__main__":
    entry.run(main, positional=True)
