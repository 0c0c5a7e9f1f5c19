"""A model in memory, as the engine takes it: a configuration and weights by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from rbe_cli.choices import ActivationBits
from rbe_cli.engine.address_layout import AddressLayout
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding
from rbe_cli.nn.named_weights import NamedWeights, check_weights
from rbe_cli.runtime.arrays import Floating


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Holds a GPT-2's weights, which nobody changes as long as the model is in use.

    Attributes:
        config: shapes and options.
        weights: vectors and matrices by canonical name. The layers' matrices may still be
            entropy-coded. Gamma and beta of a LayerNorm may be a number for all elements, or
            compressed.

    Raises:
        UsageError: a tensor is missing, or has another shape than the config says.
    """

    config: Gpt2Config
    weights: NamedWeights

    def __post_init__(self) -> None:
        check_weights(self.config, self.weights)

    @classmethod
    def from_checkpoint(cls, config: Gpt2Config, tensors: Mapping[str, Floating]) -> "LoadedModel":
        """Return a dense model of a checkpoint's tensors, whose embeddings are `[rows, n_embd]`."""
        weights = {name: own.T if is_embedding(name) else own for name, own in tensors.items()}
        return cls(config, weights)

    def address_layout(self, activation_bits: ActivationBits) -> AddressLayout:
        """Return where the weights lie in memory; all sessions of the model share it.

        Args:
            activation_bits: bits that a prompt's activations are rounded to.
        """
        own, key = vars(self), f"_layout_{activation_bits}"
        if key not in own:
            # At once, as two threads may come here: the first layout stays.
            own.setdefault(key, AddressLayout(self.config, self.weights, activation_bits))
        return cast(AddressLayout, own[key])
