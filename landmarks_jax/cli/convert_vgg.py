"""The command `landmarks_jax.cli.convert_vgg`: a published VGG network as one `.npz`."""

from pathlib import Path

from absl import flags

from landmarks_jax.cli import entry
from landmarks_jax.models.vgg import NETWORKS
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.weights import download, vgg_import

_FILE = flags.DEFINE_string("file", None, "torchvision's .pth or Keras' .h5, to convert.")
_DOWNLOAD = flags.DEFINE_enum(
    "download", None, NETWORKS, "torchvision's own file is downloaded beside --out, and converted."
)
_URL = flags.DEFINE_string("url", None, "With --download: another address of the same file.")
_OUT = flags.DEFINE_string("out", None, "The .npz to write.")


def main() -> None:
    """Downloads, if that is asked for, and converts."""
    file, network = _FILE.value, _DOWNLOAD.value
    if bool(file) == bool(network):
        raise ConfigError("name what to convert: --file FILE, or --download vgg16 or vgg19")
    if not _OUT.value or not _OUT.value.endswith(".npz"):
        raise ConfigError(f"--out {_OUT.value or ''}: name the .npz to write")
    out = Path(_OUT.value)
    if network:
        published = download.VGG[network]
        path = out.with_name(published.url.rpartition("/")[2])
        download.download(published._replace(url=_URL.value or published.url), path)
    else:
        path = Path(str(file))
    network = vgg_import.convert(path, out)
    print(f"{out}: {network} from {path}; train with --config.perceptual.network={network}")


def start() -> None:
    """Runs the command."""
    entry.run(main)


if __name__ == "__main__":
    start()
