"""Train parameters with Adam (Kingma & Ba 2015, algorithm 1)."""

from collections.abc import Mapping

import numpy as np

from rbe_cli.algebra.elementary import exp2, log2
from rbe_cli.runtime.arrays import Floating


class Adam:
    """Move parameters against their gradients, each by about its learning rate.

    Attributes:
        training_step: how many steps were made.

    Args:
        betas: how much of the means of gradients and of their squares each step keeps.
        eps: is added to the root of the squares' mean.
    """

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.betas = betas
        self.eps = eps
        self.training_step = 0
        self._moments: dict[str, Floating] = {}  # by name, [2, ...]: of gradients, of squares

    def step(
        self,
        parameters: Mapping[str, Floating],
        gradients: Mapping[str, Floating],
        rates: Mapping[str, float],
    ) -> dict[str, Floating]:
        """Return all parameters after a step; those without a gradient stay.

        Args:
            parameters: by name.
            gradients: by name, of the parameters' shapes.
            rates: learning rates, of the names that have gradients.
        """
        self.training_step += 1
        corrections = [1 - float(exp2(self.training_step * log2(beta))) for beta in self.betas]
        moved = dict(parameters)
        for name, gradient in gradients.items():
            moments = self._moments.setdefault(name, np.zeros((2, *gradient.shape), gradient.dtype))
            for moment, beta, value in zip(
                moments, self.betas, (gradient, gradient * gradient), strict=True
            ):
                moment *= beta
                moment += (1 - beta) * value
            mean, square = moments[0] / corrections[0], moments[1] / corrections[1]
            change = rates[name] * mean / (np.sqrt(square) + self.eps)
            moved[name] = parameters[name] - change.astype(gradient.dtype)
        return moved

    def to_arrays(self) -> dict[str, Floating]:
        """Return the state, from which `from_arrays` goes on."""
        return self._moments | {"": np.array(float(self.training_step))}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Floating], betas: tuple[float, float] = (0.9, 0.999)
    ) -> "Adam":
        """Return an optimiser that goes on from what `to_arrays` gave."""
        found = cls(betas)
        found._moments = {name: own.copy() for name, own in arrays.items() if name}
        found.training_step = int(arrays[""])
        return found
