"""The forms of a matrix in a model, and what of it can be trained.

A dense matrix is its own parameter. In a compressed one the integers stand; trained are the
steps by which they are multiplied, or what the classic scheme stores.
"""

from collections.abc import Mapping

from rbe_cli.codec.classic import ClassicMatrix
from rbe_cli.kernels.arrays import Floating
from rbe_cli.kernels.coded import CodedMatrix
from rbe_cli.kernels.panel import PanelMatrix

Weight = Floating | PanelMatrix | CodedMatrix | ClassicMatrix
"""A matrix `[K, N]`: dense, integers or levels in panels, still entropy-coded, or classic."""


def decoded(weight: Weight) -> Floating | PanelMatrix:
    """As it can be multiplied by."""
    if isinstance(weight, CodedMatrix):
        return weight.decoded()
    return weight.decode() if isinstance(weight, ClassicMatrix) else weight


def dense(weight: Weight) -> Floating:
    """All weights, `[K, N]`."""
    found = decoded(weight)
    return found.dense() if isinstance(found, PanelMatrix) else found


def is_compressed(weight: Weight) -> bool:
    """Whether it is multiplied by as it is stored, some 256 tokens at a time."""
    return isinstance(weight, PanelMatrix | CodedMatrix)


def parameters(weight: Weight) -> dict[str, Floating]:
    """What can be trained, by the suffix of its name; of a dense matrix, which has none, itself.

    Panels: `.row_steps` `[K]`, `.column_steps` `[N]`. The classic scheme: `.surfaces`
    `[blocks, 8]`, `.coefficients` `[n]`, those of all blocks.
    """
    if isinstance(weight, CodedMatrix):
        weight = weight.decoded()
    if isinstance(weight, PanelMatrix):
        return {".row_steps": weight.row_steps, ".column_steps": weight.column_steps}
    if isinstance(weight, ClassicMatrix):
        return {".surfaces": weight.surfaces, ".coefficients": weight.coefficients}
    return {"": weight}


def with_parameters(weight: Weight, values: Mapping[str, Floating]) -> Weight:
    """The same matrix with other values of all that `parameters` names."""
    if isinstance(weight, CodedMatrix):
        weight = weight.decoded()
    if isinstance(weight, PanelMatrix):
        return weight.with_steps(values[".row_steps"], values[".column_steps"])
    if isinstance(weight, ClassicMatrix):
        return weight.with_parameters(values[".surfaces"], values[".coefficients"])
    return values[""]


def parameter_gradients(weight: Weight, grad: Floating) -> dict[str, Floating]:
    """Gradients of what `parameters` names, from that of the weights `[K, N]`."""
    if isinstance(weight, CodedMatrix):
        weight = weight.decoded()
    if isinstance(weight, PanelMatrix):
        rows, columns = weight.step_gradients(grad)
        return {".row_steps": rows, ".column_steps": columns}
    if isinstance(weight, ClassicMatrix):
        surfaces, coefficients = weight.gradients(grad)
        return {".surfaces": surfaces, ".coefficients": coefficients}
    return {"": grad}
