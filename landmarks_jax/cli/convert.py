r"""Convert published weights for this program, or landmarks for other programs.

landmarks-jax convert vgg --download vgg16 --out data/weights/vgg16.npz
landmarks-jax convert vgg --file vgg19-dcbb9e9d.pth --out data/weights/vgg19.npz
landmarks-jax convert checkpoint --detector model_34.fan.pth --generator model_34.gen.pth \
    --core fan_109.pth --workdir runs/published
landmarks-jax convert landmarks --file found/landmarks.jsonl --out wings.tps

`vgg` reads torchvision's .pth or Keras' .h5 file. `checkpoint` makes the folder of a run, which
`landmarks-jax eval` and `export` read; its configuration is --config with the sizes of the networks
as in the files. Adapted detectors need --core, which holds their frozen weights. `landmarks` writes
what `landmarks-jax detect` found as TPS (tpsDig, geomorph), COCO keypoints or DeepLabCut's CSV.
"""

from pathlib import Path

from absl import flags

from landmarks_jax.cli import shared_flags
from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system.errors import ConfigError

_ACTIONS = ("vgg", "checkpoint", "landmarks")
_OWNERS = {
    "file": ("vgg", "landmarks"),
    "download": ("vgg",),
    "url": ("vgg",),
    "out": ("vgg", "landmarks"),
    "workdir": ("checkpoint",),
    "detector": ("checkpoint",),
    "generator": ("checkpoint",),
    "core": ("checkpoint",),
    "points": ("landmarks",),
    "scale": ("landmarks",),
}

_FLAGS = (
    Flag("file", "vgg: the .pth or .h5 file. landmarks: the landmarks.jsonl of detect."),
    Flag(
        "download",
        "vgg: download torchvision's own file beside --out, and convert it.",
        choices=("vgg16", "vgg19"),
    ),
    Flag("url", "vgg: with --download, another address of the same file."),
    Flag(
        "out",
        "vgg: the .npz to write. landmarks: the file to write, .tps, .json (COCO) or .csv "
        "(DeepLabCut). Images are named relative to its folder.",
    ),
    Flag("workdir", "checkpoint: the run folder to make."),
    Flag("detector", "checkpoint: the detector's file."),
    Flag("generator", "checkpoint: the generator's file, if there is one."),
    Flag("core", "checkpoint: the core's file, for an adapted detector."),
    Flag(
        "points",
        "landmarks: which points; default: labelled, or landmarks without a linear map.",
        choices=("landmarks", "labelled", "smooth_landmarks", "smooth_labelled"),
    ),
    Flag("scale", "landmarks: the length of a pixel, for SCALE= of a TPS file.", kind=float, low=0),
)


def _run(call: Call) -> None:
    if len(call.arguments) != 1 or call.arguments[0] not in _ACTIONS:
        raise ConfigError(f"say what to convert, one of {', '.join(_ACTIONS)}; --help says more")
    shared_flags.refuse_unused(call.flags, call.arguments[0], _OWNERS)
    if call.arguments[0] == "vgg":
        _vgg(call.flags)
    elif call.arguments[0] == "landmarks":
        _landmarks(call.flags)
    else:
        _checkpoint(call.flags)


def _vgg(values: flags.FlagValues) -> None:
    file, network = values.file, values.download
    if bool(file) == bool(network):
        raise ConfigError("name what to convert: --file FILE, or --download vgg16 or vgg19")
    if values.url and not network:
        raise ConfigError("--url: goes with --download")
    if not values.out or not values.out.endswith(".npz"):
        raise ConfigError(f"--out {values.out or ''}: name the .npz to write")
    from landmarks_jax.weights import download, vgg_import  # noqa: PLC0415

    out = Path(values.out)
    if network:
        published = download.VGG[network]
        path = out.with_name(published.url.rpartition("/")[2])
        download.download(published._replace(url=values.url or published.url), path)
    else:
        path = Path(file)
    network = vgg_import.convert(path, out)
    print(f"{out}: {network} from {path}; train with --config.perceptual.network={network}")


def _checkpoint(values: flags.FlagValues) -> None:
    for name in ("detector", "workdir"):
        if not values[name].value:
            raise ConfigError(f"--{name}: needed to convert a checkpoint; --help says more")
    from landmarks_jax.training import import_published  # noqa: PLC0415

    config = import_published.import_run(
        Path(values.workdir),
        values.config,
        detector=Path(values.detector),
        generator=Path(values.generator) if values.generator else None,
        core=Path(values.core) if values.core else None,
    )
    sizes = ", ".join(f"{field} {value}" for field, value in config.model.items())
    print(f"{values.workdir}: {sizes}; views of {config.views.size} pixels")


def _landmarks(values: flags.FlagValues) -> None:
    for name in ("file", "out"):
        if not values[name].value:
            raise ConfigError(f"--{name}: needed to convert landmarks; --help says more")
    from landmarks_jax.inference.media import result_conversion  # noqa: PLC0415

    out = Path(values.out)
    print(result_conversion.convert(Path(values.file), out, values.points, values.scale))


COMMAND = Command(
    _run,
    _FLAGS,
    config="checkpoint: the configuration it was trained with.",
    default_config="released",
    arguments="vgg|checkpoint|landmarks",
)
