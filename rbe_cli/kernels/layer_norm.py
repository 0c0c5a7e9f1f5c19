"""Layer normalisation (Ba et al. 2016)."""

import numpy as np

from rbe_cli.jit import jit
from rbe_cli.kernels.arrays import Float32
from rbe_cli.kernels.sums import dot, total

_ONE = np.float32(1)


@jit()
def layer_norm(x: Float32, gamma: Float32, beta: Float32, eps: float, out: Float32) -> None:
    """out = (x - mean) / sqrt(variance + eps) * gamma + beta; x and out `[tokens, d]`."""
    for token in range(x.shape[0]):
        centred = out[token]
        rstd = _centre(x[token], eps, centred)
        for i in range(centred.shape[0]):
            centred[i] = centred[i] * rstd * gamma[i] + beta[i]


@jit()
def layer_norm_backward(
    x: Float32, gamma: Float32, eps: float, grad: Float32, out: Float32
) -> None:
    """out = rstd (g - mean(g) - x^ mean(g x^)), g = grad gamma, x^ = (x - mean(x)) rstd."""
    width = np.float32(x.shape[1])
    g = np.empty(x.shape[1], np.float32)
    for token in range(x.shape[0]):
        centred = out[token]
        rstd = _centre(x[token], eps, centred)
        for i in range(g.shape[0]):
            g[i] = grad[token, i] * gamma[i]
        along = np.float32(dot(centred, g) * rstd * rstd / width)
        average = np.float32(total(g) / width)
        for i in range(g.shape[0]):
            centred[i] = rstd * (g[i] - average - centred[i] * along)


@jit()
def _centre(x: Float32, eps: float, out: Float32) -> np.float32:
    """out `[d]` = x - mean(x); returns 1 / sqrt(variance + eps)."""
    width = np.float32(x.shape[0])
    mean = np.float32(total(x) / width)
    for i in range(x.shape[0]):
        out[i] = x[i] - mean
    return np.float32(_ONE / np.sqrt(dot(out, out) / width + np.float32(eps)))
