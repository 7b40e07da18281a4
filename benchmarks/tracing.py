"""What our training step really runs, counted in its jaxpr and by XLA, part by part."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from landmarks_jax import objective
from landmarks_jax.models import vgg as vggs
from landmarks_jax.system.compiler import compiler_options
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from landmarks_jax.training.batches import batch_shapes
from landmarks_jax.training.step import Frozen

NUM_POINTS = 5  # of a photo, where the views are boxes


def canvases_of(config: ConfigDict) -> jax.ShapeDtypeStruct:
    """A batch's canvases, as a shape."""
    return batch_shapes(config, NUM_POINTS).canvases  # type: ignore[return-value]


def num_parameters(config: ConfigDict) -> int:
    """How many numbers are trained."""
    (state, *_) = abstract_step(config)[1]
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def abstract_step(config: ConfigDict) -> tuple[Any, tuple[Any, ...]]:
    """The whole step, and its arguments as shapes."""
    networks = objective.build_networks(config)
    optimizer = states.make_optimizer(config)
    start = partial(states.initial_state, config=config, networks=networks, optimizer=optimizer)
    state = jax.eval_shape(start, jax.random.key(0))
    totals = jax.eval_shape(partial(steps.empty_totals, config))
    run = partial(steps.train_step, config=config, networks=networks, optimizer=optimizer)
    canvases, points = batch_shapes(config, NUM_POINTS)
    return run, (state, totals, canvases, abstract_frozen(config), points)


def abstract_frozen(config: ConfigDict) -> Frozen:
    """What steps read, as shapes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    perceptual = config.perceptual
    params: dict[str, Any] = {}
    if perceptual.weights:
        shapes = vggs.parameter_shapes(perceptual.network, perceptual.taps)
        params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    three: Any = jax.ShapeDtypeStruct((3,), jnp.float32)
    return Frozen(key, params, three, three)


def run_macs(config: ConfigDict) -> dict[str, dict[str, float]]:
    """Multiply-adds a photo of every convolution and matrix product in our step's jaxpr.

    Returns:
      `{part: {"forward", "backward"}}`; `other` is what lies in no network.
    """
    run, arguments = abstract_step(config)
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    traced = jax.make_jaxpr(run)(*arguments).jaxpr
    # Gradients that nobody asks for, such as those of VGG's kernels, are traced and never run.
    traced, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    for stack, macs in walk(traced):
        direction = "backward" if "transpose(" in stack else "forward"
        found[part_of(stack)][direction] += macs / config.train.batch_size
    return dict(found)


def part_of(stack: str) -> str:
    """The part that a stack of names, such as `transpose(jvp(Generator))/encoder`, is of."""
    if "Generator" in stack:
        return "encoder" if "encoder" in stack else "decoder"
    for name, part in (("Detector", "detector"), ("Vgg", "vgg")):
        if name in stack:
            return part
    return "other"


def walk(jaxpr: Any, stack: str = "", times: int = 1) -> Iterator[tuple[str, float]]:
    """Every convolution and matrix product: where it stands, and its multiply-adds.

    Multiplications with the zeros of padding count, with those of dilation they do not.
    """
    for equation in jaxpr.eqns:
        here = f"{stack}/{equation.source_info.name_stack}"
        macs = _macs_of(equation)
        if macs:
            yield here, times * macs
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _inner(equation.params):
            yield from walk(inner, here, times * repeats)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner


def _macs_of(equation: Any) -> float:
    """Of a `conv_general_dilated` or `dot_general`, 0 of anything else."""
    params = equation.params
    out = equation.outvars[0].aval
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return float(out.size * np.prod([left[axis] for axis in contracted]))
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        # The kernel's output channels are the result's; all else of it is summed over.
        summed = kernel.size / kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return float(out.size * summed / np.prod(params["lhs_dilation"]))
    return 0.0


def xla_costs(config: ConfigDict, *, compiled: bool) -> dict[str, dict[str, float]]:
    """XLA's own count of operations and bytes a photo, part by part and of the whole step.

    Operations are multiplications and additions apart, pointwise ones too, without those on
    padding. Of the decoder it is the generator's less the encoder's.

    Args:
      config: the configuration.
      compiled: count what the compiler makes of it for this device (of which calls into libraries
        may be left out) instead of what it is given.

    Returns:
      `{part: {"flops", "bytes"}}`, of `views` and `step` besides; empty where XLA cannot count.
    """
    found: dict[str, dict[str, float]] = {}
    for name, (function, arguments) in _functions(config).items():
        lowered = jax.jit(function).lower(*arguments)
        try:
            counted = lowered.compile(compiler_options()) if compiled else lowered
            cost: Any = counted.cost_analysis()
        except NotImplementedError:
            return {}
        if not cost:
            return {}
        photos = config.train.batch_size
        part = found.setdefault(name.split()[0], {"flops": 0.0, "bytes": 0.0})
        part["flops"] += cost.get("flops", 0.0) / photos
        part["bytes"] += cost.get("bytes accessed", 0.0) / photos
    generator = found.pop("generator")
    encoder = found["encoder"]
    found["decoder"] = {count: generator[count] - encoder[count] for count in generator}
    return found


def _functions(config: ConfigDict) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Name -> a part of the step, forward and backward, and its arguments as shapes.

    Of two words the first is the part: the generator runs twice, and the gradient of the photos,
    which the first time nothing needs, is left out.
    """
    networks = objective.build_networks(config)
    step, arguments = abstract_step(config)
    state, _, canvases, frozen, *points = arguments
    directions = 2 if config.objective.composition in ("cycle", "all") else 1
    dtype = jnp.promote_types(jnp.dtype(config.compute_dtype), jnp.float32)
    count, size = config.train.batch_size, config.views.size

    def images(a_photo: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((a_photo * count, size, size, 3), dtype)

    num_maps = config.model.num_landmarks
    maps = jax.ShapeDtypeStruct((directions * count, size // 4, size // 4, num_maps), dtype)

    def apply(name: str, *inputs: Any, only: str = "") -> Any:
        """A network's output, or that of one of its modules."""
        params, *rest = inputs
        variables = {"params": params, "batch_stats": state_stats[name]}
        module: Any = getattr(networks, name)
        out, kept = module.apply(
            variables,
            *rest,
            use_running_average=False,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=(lambda m, _: m.name == only) if only else False,
        )
        return kept["intermediates"][only]["__call__"][0] if only else out

    def with_gradient(function: Any) -> Any:
        """The function's result and the gradients of all its arguments."""

        def run(*args: Any) -> Any:
            out, pull = jax.vjp(function, *args)
            return out, pull(jax.tree.map(jnp.ones_like, out))

        return run

    state_stats = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), state.batch_stats)
    detector = partial(apply, "detector")
    functions: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "step": (step, arguments),
        "views": (
            lambda key, rows, *given: steps.draw(key, jnp.int32(0), rows, config, *given),
            (frozen.key, canvases, *points),
        ),
        "detector": (
            lambda params, x: with_gradient(lambda p: detector(p, x))(params),
            (state.params["detector"], images(2)),
        ),
    }
    for name, only in (("generator", ""), ("encoder", "encoder")):
        run = partial(apply, "generator", only=only)
        given = (state.params["generator"], images(directions), maps)
        functions[f"{name} of photos"] = (
            lambda p, x, m, run=run: with_gradient(lambda p, m: run(p, x, m))(p, m),
            given,
        )
        if config.objective.composition in ("inter", "all"):
            functions[f"{name} of redrawn"] = (with_gradient(run), given)
    if networks.vgg is not None:
        vgg = networks.vgg
        seen = (frozen.vgg, images(directions))

        def features(params: Any, x: Any) -> Any:
            return vgg.apply({"params": params}, x)

        functions["vgg of targets"] = (features, seen)
        functions["vgg of final"] = (
            lambda params, x: with_gradient(lambda x: features(params, x))(x),
            seen,
        )
    return functions
