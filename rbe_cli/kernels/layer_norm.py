"""Layer normalisation (Ba et al. 2016)."""

import numpy as np

from rbe_cli.jit import jit
from rbe_cli.kernels.arrays import Float32


@jit(reassociate=True)
def layer_norm(x: Float32, gamma: Float32, beta: Float32, eps: float, out: Float32) -> None:
    """out = (x - mean) / sqrt(variance + eps) * gamma + beta; x and out `[tokens, d]`."""
    width = x.shape[1]
    for token in range(x.shape[0]):
        total = np.float32(0)
        for i in range(width):
            total += x[token, i]
        mean = np.float32(total / np.float32(width))
        squares = np.float32(0)
        for i in range(width):
            squares += (x[token, i] - mean) * (x[token, i] - mean)
        variance = squares / np.float32(width)
        scale = np.float32(1) / np.sqrt(variance + np.float32(eps))
        for i in range(width):
            out[token, i] = (x[token, i] - mean) * scale * gamma[i] + beta[i]


@jit(reassociate=True)
def layer_norm_backward(
    x: Float32, gamma: Float32, eps: float, grad: Float32, out: Float32
) -> None:
    """out = rstd (g - mean(g) - x^ mean(g x^)), g = grad gamma, x^ = (x - mean(x)) rstd."""
    width = x.shape[1]
    for token in range(x.shape[0]):
        total = np.float32(0)
        for i in range(width):
            total += x[token, i]
        mean = np.float32(total / np.float32(width))
        squares, products, gradients = np.float32(0), np.float32(0), np.float32(0)
        for i in range(width):
            centred, g = x[token, i] - mean, grad[token, i] * gamma[i]
            squares += centred * centred
            products += centred * g
            gradients += g
        rstd = np.float32(1) / np.sqrt(squares / np.float32(width) + np.float32(eps))
        along = np.float32(products * rstd * rstd / np.float32(width))
        average = np.float32(gradients / np.float32(width))
        for i in range(width):
            g = grad[token, i] * gamma[i]
            out[token, i] = rstd * (g - average - (x[token, i] - mean) * along)
