"""Hold a matrix in panels on a GPU, and multiply by it without unpacking it into memory."""

from typing import Any

import numpy as np
from numba import cuda

from rbe_cli.cuda import many_tokens_product, one_token_product, overflow_products
from rbe_cli.cuda.device_matrix import DeviceMatrix, Outputs
from rbe_cli.cuda.embedding_rows import THREADS, embedding_kernel
from rbe_cli.cuda.kernel import WARP
from rbe_cli.cuda.many_tokens_product import BLOCK_PANELS, many_tokens_kernel
from rbe_cli.cuda.one_token_product import one_token_kernel
from rbe_cli.cuda.panel_arrays import form_of, overflow_arrays, panel_arrays
from rbe_cli.cuda.product_output import HAS_OVERFLOW
from rbe_cli.cuda.rounded_inputs import RoundedInputs
from rbe_cli.cuda.trellis_tiles import TRELLIS_FORM
from rbe_cli.cuda.uniform_tiles import UNIFORM_FORMS
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, TILE_ROWS
from rbe_cli.weights.panel_matrix import PanelMatrix

_FEW_TOKENS = 4  # read the matrix once each, from the cache
_MOST_OVERFLOW_TOKENS = 64  # at once, as their sums lie in memory

_FORMS = (*UNIFORM_FORMS.values(), TRELLIS_FORM)
_ONE_TOKEN = {form.name: one_token_kernel(form) for form in _FORMS}
_MANY_TOKENS = {form.name: many_tokens_kernel(form) for form in _FORMS}
_COLUMNS = {form.name: embedding_kernel(form) for form in _FORMS}


class DevicePanels(DeviceMatrix):
    """Hold uniform panels of 2, 4 or 8 bits, or those of a trellis, as the CPU has them.

    Products have the CPU's sums to the bit.

    Args:
        matrix: the panels.
        inputs: memory for rounded inputs, which several matrices may share.

    Raises:
        UsageError: kernels do not know the layout, or the matrix is too large for them.
    """

    def __init__(self, matrix: PanelMatrix, inputs: RoundedInputs) -> None:
        self.shape = matrix.shape
        self._form = form_of(matrix).name
        self._tiles = -(-matrix.shape[0] // TILE_ROWS)
        self._arrays = panel_arrays(matrix)
        self._overflow = overflow_arrays(matrix)
        if self._overflow is not None:
            self.most_tokens = _MOST_OVERFLOW_TOKENS
        self._overflow_sums = cuda.device_array(1, np.float32)
        self._inputs = inputs
        steps = matrix.in_panels(np.float32(matrix.unit) * matrix.column_steps)
        self._panels = steps.size // PANEL_COLUMNS
        self._steps = cuda.to_device(np.ascontiguousarray(steps, np.float32))
        self._row_steps = cuda.to_device(np.ascontiguousarray(matrix.row_steps, np.float32))

    @property
    def nbytes(self) -> int:
        """Return the bytes of the matrix in the GPU's memory."""
        more = 0 if self._overflow is None else self._overflow.nbytes
        return self._arrays.nbytes + int(self._steps.nbytes + self._row_steps.nbytes) + more

    def input_bytes(self, tokens: int) -> int:
        """Return the bytes of the rounded inputs."""
        return RoundedInputs.bytes_of(self.shape[0]) * min(tokens, self.most_tokens)

    @property
    def _panel_arguments(self) -> tuple[Any, ...]:
        own = self._arrays
        return own.values, own.entries, own.starts, own.taps, self._tiles, self._panels

    def columns(self, indices: Any, out: Any) -> None:
        """Set out `[n, K]` to the columns of int32 indices `[n]`."""
        places, count = self._arrays.places, indices.shape[0]
        if self._overflow is not None:
            overflow_products.write_overflow_rows.launch(
                count, TILE_ROWS, *self._overflow, places, indices, out
            )
        adds = int(self._overflow is not None)
        rest = places, indices, self._row_steps, self._steps, adds, out
        _COLUMNS[self._form].launch(count, THREADS, *self._panel_arguments, *rest)

    def _multiply(self, x: Any, outputs: Outputs) -> None:
        self._inputs.fill(x, self._row_steps)
        inputs = self._inputs.high, self._inputs.low, self._inputs.scales
        flags = self._sum_overflow(x.shape[0])
        rest = outputs.arguments(self._arrays.lanes, self._steps, self._overflow_sums, flags)
        arguments = (*self._panel_arguments, *inputs, *rest)
        if x.shape[0] <= _FEW_TOKENS:
            threads = one_token_product.block_threads(self._tiles, self._panels)
            _ONE_TOKEN[self._form].launch(
                self._panels * x.shape[0], threads, *arguments,
                shared_bytes=one_token_product.shared_bytes(self._tiles),
            )  # fmt: skip
        else:
            blocks = many_tokens_product.block_count(x.shape[0], self._panels)
            threads = WARP * min(BLOCK_PANELS, self._panels)
            _MANY_TOKENS[self._form].launch(blocks, threads, *arguments)

    def _sum_overflow(self, tokens: int) -> int:
        """Sum what is past 8 bits; return the flag that says so, or 0 where there is nothing."""
        if self._overflow is None:
            return 0
        size = tokens * self._panels * PANEL_COLUMNS
        if self._overflow_sums.shape[0] < size:
            self._overflow_sums = cuda.device_array(size, np.float32)
        step, own = overflow_products.OVERFLOW_TOKENS, self._inputs
        overflow_products.overflow_sums.launch(
            self._panels * -(-tokens // step), step * PANEL_COLUMNS, *self._overflow, self._tiles,
            own.high, own.low, own.scales, tokens, self._overflow_sums,
        )  # fmt: skip
        return HAS_OVERFLOW
