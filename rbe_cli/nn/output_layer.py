"""Compute logits from the last block's output: LayerNorm, and the product with the head."""

from dataclasses import dataclass

from rbe_cli.codec.stream_rotation import StreamRotation
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.runtime.arrays import Floating


@dataclass(frozen=True)
class OutputLayer:
    """Hold the last LayerNorm and the head.

    Attributes:
        norm, head: the parts.
        rotation: of the residual stream and of the head; the LayerNorm works on unrotated
            states. None if the stream was not rotated.
    """

    norm: LayerNorm
    head: Linear
    rotation: StreamRotation | None = None

    def __call__(self, states: Floating, observe: Observer | None = None) -> Floating:
        """Return the logits `[..., vocab_size]` of the last block's outputs `[..., d]`."""
        return self.head(self.normed(states), observe)

    def normed(self, states: Floating) -> Floating:
        """Return the head's input `[..., d]` of the last block's outputs `[..., d]`."""
        if self.rotation is None:
            return self.norm(states)
        return self.rotation.into(self.norm(self.rotation.out_of(states)))

    def backward(
        self,
        states: Floating,
        normed: Floating,
        grad: Floating,
        observe: GradientObserver | None = None,
        observe_norm: GradientObserver | None = None,
    ) -> Floating:
        """Return the gradient `[..., d]` with respect to the last block's outputs.

        Args:
            states: the outputs `[..., d]`.
            normed: the head's input `[..., d]`, as `normed` returned it.
            grad: `[..., vocab_size]`, with respect to the logits.
            observe, observe_norm: see the head, and the LayerNorm.
        """
        grad = self.head.backward(normed, grad, observe)
        if self.rotation is None:
            return self.norm.backward(states, grad, observe_norm)
        grad = self.rotation.out_of(grad)
        grad = self.norm.backward(self.rotation.out_of(states), grad, observe_norm)
        return self.rotation.into(grad)
