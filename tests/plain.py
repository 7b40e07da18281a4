"""The method once more, written for reading: plain layers, one call after the other, no folding.

What `tests/test_plain.py` holds the real step against. Layers are lax's own convolutions and means;
the same parameter trees go in.
"""

import jax
import jax.numpy as jnp

from landmarks_jax import keypoints


def conv(x, params, stride=1, padding=1):
    y = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + params.get("bias", 0.0)


def conv_transposed(x, params):
    """PyTorch's 4 x 4 with stride 2 and padding 1: holes between the inputs, a turned kernel."""
    return jax.lax.conv_general_dilated(
        x,
        params["kernel"][::-1, ::-1],
        (1, 1),
        [(2, 2), (2, 2)],
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def norm(x, params):
    mean = x.mean((0, 1, 2))
    var = ((x - mean) ** 2).mean((0, 1, 2))
    return (x - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def block(x, params):
    parts, y = [], x
    for i in "123":
        y = conv(jax.nn.relu(norm(y, params[f"norm{i}"])), params[f"conv{i}"])
        parts.append(y)
    if "skip_conv" in params:
        x = conv(jax.nn.relu(norm(x, params["skip_norm"])), params["skip_conv"], padding=0)
    return x + jnp.concatenate(parts, -1)


def pool(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def hourglass(x, params):
    y = block(pool(x), params["down"])
    y = hourglass(y, params["inner"]) if "inner" in params else block(y, params["bottom"])
    y = block(y, params["up"])
    return block(x, params["skip"]) + y.repeat(2, 1).repeat(2, 2)


def detector(params, images, beta):
    """Landmarks `[B, K, 2]` of views `[B, S, S, 3]`."""
    x = jax.nn.relu(norm(conv(images, params["stem"], 2, 3), params["stem_norm"]))
    x = pool(block(x, params["block1"]))
    if "features" in params:
        vgg_params, mean, std = (params["features"][name] for name in ("vgg", "mean", "std"))
        last = max(name.removeprefix("kernel") for name in vgg_params if "kernel" in name)
        deep = vgg(vgg_params, (images - mean) / std, [f"relu{last}"])[0]
        x = x + conv(norm(deep, params["features_norm"]), params["features_conv"], padding=0)
    x = block(block(x, params["block2"]), params["block3"])
    x = block(hourglass(x, params["hourglass"]), params["top"])
    x = jax.nn.relu(norm(conv(x, params["last"], padding=0), params["last_norm"]))
    return keypoints.soft_argmax(conv(x, params["head"], padding=0), beta)


def generator(params, images, landmarks, sigma):
    """Images `[B, S, S, 3]` redrawn with landmarks `[B, K, 2]`."""
    side = images.shape[1] // 4
    x, encoder = images, params["encoder"]
    x = jax.nn.relu(norm(conv(x, encoder["conv1"], 1, 3), encoder["norm1"]))
    for i in "23":
        x = jax.nn.relu(norm(conv(x, encoder[f"conv{i}"], 2), encoder[f"norm{i}"]))
    x = jnp.concatenate([x, keypoints.gaussian_maps(landmarks, (side, side), sigma)], -1)
    x = norm(x, params["norm_in"])
    for i in range(1, sum(name.startswith("residual") for name in params) + 1):
        inner = params[f"residual{i}"]
        y = jax.nn.relu(norm(conv(x, inner["conv1"]), inner["norm1"]))
        x = x + norm(conv(y, inner["conv2"]), inner["norm2"])
    for i in "12":
        x = jax.nn.relu(norm(conv_transposed(x, params[f"up{i}"]), params[f"up_norm{i}"]))
    return 0.5 * (jnp.tanh(conv(x, params["conv_out"], 1, 3)) + 1)


def vgg(params, images, taps):
    """Features of each tap; the layers in the order of their names, such as `1_2`."""
    x, features = images, []
    for layer in sorted(name.removeprefix("kernel") for name in params if "kernel" in name):
        if layer.endswith("_1") and layer != "1_1":
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        named = {"kernel": params[f"kernel{layer}"], "bias": params[f"bias{layer}"]}
        x = jax.nn.relu(conv(x, named))
        if f"relu{layer}" in taps:
            features.append(x)
    return features


def released_loss(params, x, other, *, auxiliary, vgg_params, config):
    """Eq. 7 as the released code composes it: every view and every direction in its own call."""
    model, taps = config.model, config.perceptual.taps
    u, v, a = (
        detector(params["detector"], images, model.beta) for images in (x, other, x[auxiliary])
    )
    loss = 0.0
    for source, landmarks, target in ((x, v, other), (other, u, x)):
        intermediate = generator(params["generator"], source, a, model.sigma)
        final = generator(params["generator"], intermediate, landmarks, model.sigma)
        loss += jnp.mean((final - target) ** 2)
        features = vgg(vgg_params, final, taps), vgg(vgg_params, target, taps)
        loss += sum(jnp.mean((f - t) ** 2) for f, t in zip(*features, strict=True))
    return loss


def joint_loss(params, x, other, *, auxiliary, vgg_params, config):
    """Eq. 7 where batch norm's statistics are of both views, and of both directions."""
    model, taps, count = config.model, config.perceptual.taps, len(x)
    both = jnp.concatenate([x, other])
    actual = detector(params["detector"], both, model.beta)
    u, v = actual[:count], actual[count:]
    a = jnp.concatenate([u[auxiliary], u[auxiliary]])
    intermediate = generator(params["generator"], both, a, model.sigma)
    final = generator(params["generator"], intermediate, jnp.concatenate([v, u]), model.sigma)
    loss = 0.0
    for made, target in ((final[:count], other), (final[count:], x)):
        loss += jnp.mean((made - target) ** 2)
        features = vgg(vgg_params, made, taps), vgg(vgg_params, target, taps)
        loss += sum(jnp.mean((f - t) ** 2) for f, t in zip(*features, strict=True))
    return loss
