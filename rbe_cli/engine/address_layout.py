"""A model's weights as the forward program finds them: records of addresses."""

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from rbe_cli.choices import ActivationBits
from rbe_cli.codec.ectcq.coded_matrix import CodedMatrix
from rbe_cli.engine.forward_records import LAYER
from rbe_cli.kernels.kernel_records import ACTIVATIONS
from rbe_cli.model.config import Gpt2Config
from rbe_cli.nn.layer_norm_parameters import LayerNormParameter, values_of
from rbe_cli.nn.named_weights import NamedWeights, rotation_of
from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.matrix_record import FLOATS, MATRIX
from rbe_cli.weights.panel_layout import PANEL_COLUMNS
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.uniform_panels import UniformPanels
from rbe_cli.weights.weight_forms import Weight, dense

LINEAR_FIELDS = {
    "c_attn": "attn.c_attn",
    "attn_proj": "attn.c_proj",
    "c_fc": "mlp.c_fc",
    "mlp_proj": "mlp.c_proj",
}
"""Field of `LAYER` -> name of a layer's linear part, in order of use."""


class CodedLinear(NamedTuple):
    """Hold a linear layer that is decoded when it is used: `[K, N]`, and its bias `[N]`."""

    matrix: CodedMatrix
    bias: Float32


class AddressLayout:
    """Says where a model's weights lie; its addresses are valid as long as it lives.

    The weights stay where they are. Dense matrices are copied into panels, and vectors are copied
    with zeros to a whole panel.

    Attributes:
        config: shapes and options of the model.
        layers: `[n_layer]` of `LAYER`, without the matrices that are still entropy-coded.
        coded: number of a layer -> its entropy-coded matrices and their biases by field of
            `LAYER`; only layers that have some.
        weight_bytes: bytes of weights that decoding one token reads: all matrices as they are
            held, biases and LayerNorms. The token's own embeddings are not counted.
    """

    def __init__(
        self, config: Gpt2Config, weights: NamedWeights, activation_bits: ActivationBits
    ) -> None:
        """Find the addresses of all weights.

        Args:
            config: shapes and options.
            weights: of these shapes, as of `LoadedModel`.
            activation_bits: bits that a prompt's activations are rounded to.
        """
        self.config = config
        self.weight_bytes = 0
        self.coded: dict[int, dict[str, CodedLinear]] = {}
        self._weights = weights
        self._activation_bits = activation_bits
        self._kept: list[object] = []  # what addresses point to
        self._embeddings = {
            name: self._matrix(self._weight(name)) for name in ("wte.weight", "wpe.weight")
        }
        self.layers = np.zeros(config.n_layer, LAYER)
        for number, layer in enumerate(self.layers):
            self._fill_layer(number, layer)
        self._scales = np.array([config.score_scale(number) for number in range(config.n_layer)])
        self._output = self._make_output()
        self._head = self._make_head()

    def fill(self, job: NDArray[np.void]) -> None:
        """Write the model into a record of `FORWARD`, all but the address of the layers.

        Those of a model with coded layers change while it runs, so each runner has its own.
        """
        config = self.config
        job["scales"], job["n_layer"] = address(self._scales), config.n_layer
        job["n_embd"], job["n_inner"] = config.n_embd, config.n_inner
        job["activation"] = ACTIVATIONS[config.activation_function]
        job["eps"] = config.layer_norm_epsilon
        job["wte"], job["wpe"] = self._embeddings["wte.weight"], self._embeddings["wpe.weight"]
        job["head"] = self._head
        for name, own in self._output.items():
            job[name] = own

    def _fill_layer(self, number: int, layer: Any) -> None:
        """Write one layer into a record of `LAYER`."""
        for name in ("ln_1", "ln_2"):
            layer[name] = self._norm(f"h.{number}.{name}")
        for field, part in LINEAR_FIELDS.items():
            weight = self._weight(f"h.{number}.{part}.weight")
            bias = self._vector(f"h.{number}.{part}.bias", weight.shape[1])
            if isinstance(weight, CodedMatrix):
                self.coded.setdefault(number, {})[field] = CodedLinear(weight, bias)
            layer[field] = self._linear(weight, bias)

    def _make_output(self) -> dict[str, Any]:
        """Return the records between the last layer and the head, by field of `FORWARD`.

        Where the stream is rotated, gamma and beta of the last LayerNorm become a matrix. Its
        diagonal is most of it, and becomes the gamma of a LayerNorm. The rest is rounded to 8
        bits, and so is the error of this rounding. Both together take about 2 d^2 bytes.
        """
        rotation = rotation_of(self._weights)
        if rotation is None:
            return {"ln_f": self._norm("ln_f")}
        width = self.config.n_embd
        gamma, beta = (self._vector(f"ln_f.{own}", width) for own in ("weight", "bias"))
        matrix, bias = rotation.mixing(gamma, beta)
        diagonal = np.diag(matrix).copy()
        matrix[np.diag_indices(width)] = 0
        coarse = UniformPanels.rounded(matrix)
        rest = UniformPanels.rounded(matrix - np.asarray(coarse.dense(), np.float32))
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return {
            "ln_f": (self._padded(ones), self._padded(zeros)),
            "mixed": (self._padded(diagonal), self._padded(bias)),
            "mixing": self._linear(coarse, zeros),
            "mixing_rest": self._linear(rest, zeros),
        }

    def _make_head(self) -> Any:
        """Return the head's record of `MATRIX`; a tied one shares the embeddings' tiles."""
        name = "wte.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        weight = self._weight(name)
        record = self._embeddings.get(name)
        return self._linear(weight, np.zeros(weight.shape[1], np.float32), record)

    def _linear(self, weight: Weight, bias: Float32, record: Any = None) -> Any:
        """Return a linear layer's record of `MATRIX`.

        Args:
            weight: `[K, N]`; of an entropy-coded one the record has no addresses.
            bias: `[N]`.
            record: of the weight without a bias, if there is one.
        """
        if record is None:
            is_coded = isinstance(weight, CodedMatrix)
            record = np.zeros(1, MATRIX)[0] if is_coded else self._matrix(weight)
        record = record.copy()
        if isinstance(weight, PanelMatrix):
            self._kept.append(padded := weight.in_panels(bias))
            record["bias"] = address(padded)
        else:
            record["bias"] = self._padded(bias)
        record["takes_int8"] = self.takes_int8(weight)
        self.weight_bytes += weight.nbytes + bias.nbytes
        return record

    def takes_int8(self, weight: Weight) -> bool:
        """Return whether a prompt's activations are rounded to 8 bits for a matrix."""
        if self._activation_bits == "auto":
            return isinstance(weight, PanelMatrix) and weight.is_coarse
        return self._activation_bits == "8"

    def _matrix(self, weight: Weight) -> Any:
        """Return a matrix's record of `MATRIX`, without bias."""
        if isinstance(weight, PanelMatrix):
            self._kept.append(weight)
            return weight.record[0].copy()
        return self._float_panels(np.asarray(dense(weight), np.float32))

    def _float_panels(self, weight: Float32) -> Any:
        """Copy a dense matrix `[K, N]` into panels, and return their record of `MATRIX`."""
        rows, columns = weight.shape
        panels = -(-columns // PANEL_COLUMNS)
        values = np.zeros((panels, rows, PANEL_COLUMNS), np.float32)
        for panel in range(panels):
            part = weight[:, panel * PANEL_COLUMNS : (panel + 1) * PANEL_COLUMNS]
            values[panel, :, : part.shape[1]] = part
        self._kept.append(values)
        record: Any = np.zeros(1, MATRIX)[0]
        record["form"], record["values"] = FLOATS, address(values)
        record["rows"], record["panels"] = rows, panels
        record["column_steps"] = self._padded(np.ones(columns, np.float32))
        return record

    def _norm(self, name: str) -> tuple[int, int]:
        """Return a LayerNorm's record of `NORM`."""
        width = self.config.n_embd
        gamma, beta = self._vector(f"{name}.weight", width), self._vector(f"{name}.bias", width)
        self.weight_bytes += gamma.nbytes + beta.nbytes
        return self._padded(gamma), self._padded(beta)

    def _weight(self, name: str) -> Weight:
        """Return a matrix `[K, N]`."""
        return cast(Weight, self._weights[name])

    def _vector(self, name: str, width: int) -> Float32:
        """Return a vector `[width]`, whatever its form in memory."""
        values = values_of(cast(LayerNormParameter, self._weights[name]))
        return np.broadcast_to(np.asarray(values, np.float32), width)

    def _padded(self, vector: Float32) -> int:
        """Return the address of a copy with zeros to a whole panel."""
        padded = np.zeros(-(-len(vector) // PANEL_COLUMNS) * PANEL_COLUMNS, np.float32)
        padded[: len(vector)] = vector
        self._kept.append(padded)
        return address(padded)
