"""The training state, its initialisation, and the optimiser with its schedule."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from landmarks_jax.models import adaptation, detectors, generator
from landmarks_jax.objective import Networks
from landmarks_jax.system import compiler
from landmarks_jax.tasks import task_of
from landmarks_jax.training import sharding


@flax.struct.dataclass
class TrainState:
    """Everything that a checkpoint holds.

    Attributes:
      step: int32, steps done.
      params: `{"detector", "generator"}`.
      batch_stats: running statistics of batch norm, likewise.
      opt_state: the state of the optax optimiser.
      averaged: running average of `params`, empty if `optimizer.ema_decay` is 0.
      tap_means: running mean of each tap's loss, empty if losses are not balanced.
      core: the detector's frozen weights, empty if all train: kernels of an adapted one (see
        `adaptation`), VGG's that it reads (see `detectors`). While training `tasks.task.Frozen`
        holds them: steps neither donate nor return them.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    averaged: Any
    tap_means: dict[str, jax.Array]
    core: Any = flax.struct.field(default_factory=dict)


class Restored(NamedTuple):
    """A state with what its checkpoint holds besides.

    Attributes:
      state: the state.
      step: its step.
      seconds: how long the run had trained, over all sessions.
    """

    state: TrainState
    step: int
    seconds: float


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `params/detector/conv/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def trained_variables(state: TrainState) -> dict[str, Any]:
    """The plain detector's `{"params", "batch_stats"}`, averaged parameters if there are any."""
    params = (state.averaged or state.params)["detector"]
    return {
        "params": adaptation.fold(params, state.core),
        "batch_stats": state.batch_stats["detector"],
    }


def new_optimizer_warmup_steps(config: ml_collections.ConfigDict) -> int:
    """Steps of warm-up after trained networks got a new optimiser: 1 / (1 - beta2).

    Until then Adam's mean of squares is noisy, and full steps would disturb trained networks.
    """
    return round(1 / (1 - config.optimizer.beta2))


def learning_rate(config: ml_collections.ConfigDict, optimizer_start: int = 0) -> optax.Schedule:
    """The rate as a function of the absolute step: the product of warm-ups, drops and cosine decay.

    Args:
      config: the configuration.
      optimizer_start: the step at which trained networks got a new optimiser; 0 if they never
        did.
    """
    o = config.optimizer

    def schedule(step: jax.Array) -> jax.Array:
        rate = jnp.asarray(o.learning_rate, jnp.float32)
        if o.warmup_steps:
            rate = rate * jnp.minimum((step + 1) / o.warmup_steps, 1.0)
        if optimizer_start:
            warmup = new_optimizer_warmup_steps(config)
            rate = rate * jnp.minimum((step - optimizer_start + 1) / warmup, 1.0)
        for drop in o.drop_steps:
            rate = jnp.where(step >= drop, rate * o.drop_factor, rate)
        if o.cosine_steps:
            progress = jnp.minimum(step / o.cosine_steps, 1.0)
            rate = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return rate

    return schedule


def make_optimizer(
    config: ml_collections.ConfigDict, optimizer_start: int = 0
) -> optax.GradientTransformation:
    """Adam as configured, or Muon; the gradient of each network is clipped by its own norm.

    The order is the released code's: clip, add L2 (not decoupled), Adam.

    Args:
      config: the configuration.
      optimizer_start: see `learning_rate`; the optimiser counts its own steps from there.
    """
    o = config.optimizer
    schedule = learning_rate(config, optimizer_start)

    def rate(count: jax.Array) -> jax.Array:
        return schedule(count + optimizer_start)

    def chain() -> optax.GradientTransformation:
        parts = []
        if o.clip_norm:
            parts.append(optax.clip_by_global_norm(o.clip_norm))
        if o.weight_decay:
            parts.append(optax.add_decayed_weights(o.weight_decay))
        if o.muon_rate:
            return optax.chain(*parts, _muon(config, rate))
        parts.append(optax.scale_by_adam(b1=o.beta1, b2=o.beta2, eps=1e-8))
        parts.append(optax.scale_by_learning_rate(rate))
        # All parameters in one vector: a few kernels instead of several for each array.
        return optax.flatten(optax.chain(*parts))

    names = {name: name for name in task_of(config).NETWORKS}
    return optax.multi_transform({name: chain() for name in names}, names)


def _muon(config: ml_collections.ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    """Muon for kernels, Adam with Nesterov's momentum for all else (Jordan et al., 2024).

    A kernel `[k, k, I, O]` is a matrix from its k k I inputs to O outputs. The one that makes
    colours is Adam's, as Muon's step does not depend on the size of the gradient.
    """
    o = config.optimizer

    def matrices(params: Any) -> Any:
        numbers = optax.contrib.MuonDimensionNumbers((0, 1, 2), (3,))
        return jax.tree.map(lambda p: numbers if p.ndim == 4 and p.shape[3] > 3 else None, params)

    return optax.contrib.muon(
        lambda count: o.muon_rate / o.learning_rate * rate(count),
        adam_learning_rate=rate,
        adam_b1=o.beta1,
        adam_b2=o.beta2,
        muon_weight_dimension_numbers=matrices,
    )


def initial_state(
    key: jax.Array,
    config: ml_collections.ConfigDict,
    networks: Networks,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """Initialises parameters and optimiser; pure, so that it can be jitted and sharded.

    Frozen weights are drawn too, or 0; `init_from` replaces them.
    """
    size = config.views.size
    dtype = jnp.promote_types(jnp.dtype(config.compute_dtype), jnp.float32)
    images = jnp.zeros((1, size, size, 3), dtype)
    cells = size // generator.STRIDE
    maps = jnp.zeros((1, cells, cells, config.model.num_landmarks), dtype)
    detector_key, generator_key = jax.random.split(key)
    drawn = {"detector": networks.detector.init(detector_key, images, use_running_average=True)}
    if networks.generator is not None:
        drawn["generator"] = networks.generator.init(
            generator_key, images, maps, use_running_average=True
        )
    params = {name: variables["params"] for name, variables in drawn.items()}
    params["detector"], core = detectors.split_frozen(config, params["detector"])
    if config.init.mode == "adapt":
        params["detector"], kernels = adaptation.split(params["detector"])
        core |= kernels
    taps = config.perceptual.taps if networks.vgg and config.perceptual.balance else ()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={name: variables["batch_stats"] for name, variables in drawn.items()},
        opt_state=optimizer.init(params),
        averaged=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else {},
        tap_means={tap: jnp.zeros((), dtype) for tap in taps},
        core=core,
    )


def _initialiser(
    config: ml_collections.ConfigDict, networks: Networks
) -> Callable[[jax.Array], TrainState]:
    return functools.partial(
        initial_state, config=config, networks=networks, optimizer=make_optimizer(config)
    )


def start_state(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> TrainState:
    """Initialises the state of a run from scratch, on every device."""
    # Not 0 or 1: `tasks.landmarks.draw` splits these off, for the views and the auxiliaries. Tasks
    # that use `row_keys` alone draw the views of step 2 from this key too, which does no harm.
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    start = jax.jit(
        _initialiser(config, networks),
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler.run_once_options(),
    )
    return start(key)


def abstract_state(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> TrainState:
    """The shapes and shardings of a run's state, without computing it."""
    shapes = jax.eval_shape(_initialiser(config, networks), jax.random.key(0))
    return sharding.replicated_shapes(mesh, shapes)


def state_with_new_optimizer(
    config: ml_collections.ConfigDict, trained: Any, step: int, mesh: Mesh
) -> TrainState:
    """The state of trained networks with a new optimiser.

    Args:
      config: the configuration.
      trained: `params`, `batch_stats`, `averaged`, `tap_means` and `core` by name, NumPy.
      step: steps done.
      mesh: the devices.
    """
    trained = sharding.put_replicated(mesh, dict(trained))
    start = jax.jit(make_optimizer(config).init, out_shardings=sharding.replicated(mesh))
    count = sharding.put_replicated(mesh, np.int32(step))
    return TrainState(step=count, opt_state=start(trained["params"]), **trained)
