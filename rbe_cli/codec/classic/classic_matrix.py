"""Encode a matrix as a smooth surface and a few transform coefficients for each block.

This is the scheme of the original design of this project, kept for comparison. A matrix is cut
into square blocks, of which those at the right and lower edge may be smaller. Each is the sum of

- a surface: eight smooth functions of the position (x, y) in the block, both from -1 to 1, fitted
  by least squares: 1, d, d^2, cos(pi x), cos(pi y), cos(2 pi x), cos(2 pi y) and
  cos(pi x) cos(pi y), where d^2 = x^2 + y^2;
- a residual: the largest coefficients of a 2-D transform (transforms.py), of the DCT-II, the Haar
  wavelet or CDF 9/7. The transform with the smallest error is chosen.

These are the bytes of a matrix (codec `classic`, version 1, little-endian), block by block in rows:

    block         uint16             rows and columns of a whole block, 16 to 256
    transforms    uint8 [blocks]     0: DCT-II, 1: Haar, 2: CDF 9/7
    counts        uint16 [blocks]    residual coefficients
    surfaces      float32 [blocks, 8]
    for each block:
        indices   uint16 [count]     ascending, row * columns + column in the block
        values    float32 [count]
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.classic.classic_codec import MAX_BLOCK, MIN_BLOCK
from rbe_cli.codec.classic.transforms import TRANSFORMS, transform
from rbe_cli.codec.codec import CodecOptions
from rbe_cli.errors import PayloadError
from rbe_cli.weights.compressed_matrix import CompressedMatrix

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floating = NDArray[np.floating[Any]]

_FUNCTIONS = 8
_HEADER_BYTES = 2
_BLOCK_BYTES = 1 + 2 + 4 * _FUNCTIONS
_COEFFICIENT_BYTES = 2 + 4
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ClassicBlock:
    """One block of a matrix.

    Attributes:
        transform: index in `TRANSFORMS`.
        surface: float32 `[8]`, the factor of each smooth function.
        indices: uint16 `[count]`, ascending indices into the flat block of coefficients.
        values: float32 `[count]`, the coefficients at these indices. All others are zero.
    """

    transform: int
    surface: Float32
    indices: NDArray[np.uint16]
    values: Float32

    @property
    def nbytes(self) -> int:
        """Return the bytes of the block in a file."""
        return _BLOCK_BYTES + _COEFFICIENT_BYTES * self.indices.size

    def gradients(self, grad: Float64) -> tuple[Float64, Float64]:
        """Return the gradients of surface and values, given that of the block's weights."""
        _, left = transform(TRANSFORMS[self.transform], grad.shape[0])
        _, right = transform(TRANSFORMS[self.transform], grad.shape[1])
        coefficients = left.T @ grad @ right
        surface = _functions((grad.shape[0], grad.shape[1])).T @ grad.ravel()
        return surface, coefficients.ravel()[self.indices]

    def decode(self, shape: tuple[int, int]) -> Float64:
        """Return the weights of the block, float64 of this shape."""
        _, left = transform(TRANSFORMS[self.transform], shape[0])
        _, right = transform(TRANSFORMS[self.transform], shape[1])
        coefficients = np.zeros(shape[0] * shape[1])
        coefficients[self.indices] = self.values
        surface = (_functions(shape) @ self.surface.astype(np.float64)).reshape(shape)
        return surface + left @ coefficients.reshape(shape) @ right.T


@dataclass(frozen=True)
class ClassicMatrix(CompressedMatrix):
    """A matrix `[K, N]` that consists of classic blocks, ordered row by row."""

    shape: tuple[int, int]
    block: int
    blocks: tuple[ClassicBlock, ...]
    is_packed: ClassVar[bool] = False

    @classmethod
    def encode(
        cls, weights: Float32, bits: float, block: int = CodecOptions.block
    ) -> "ClassicMatrix":
        """Encode a matrix.

        Args:
            weights: float32 `[K, N]`.
            bits: bits per weight in all. The surfaces alone may take more.
            block: rows and columns of a block, from `MIN_BLOCK` to `MAX_BLOCK`.
        """
        rows, columns = weights.shape
        places = list(_places((rows, columns), block))
        sizes = np.array([weights[place].size for place in places])
        spare = bits * weights.size / 8 - _HEADER_BYTES - _BLOCK_BYTES * len(places)
        density = max(spare, 0.0) / (_COEFFICIENT_BYTES * weights.size)
        # Every block has the same coefficients per weight, and all together have the wanted bits.
        counts = np.diff(np.floor(np.cumsum(sizes) * density).astype(np.int64), prepend=0)
        counts = np.minimum(np.minimum(counts, sizes), np.iinfo(np.uint16).max)
        blocks = (
            _encode_block(weights[place].astype(np.float64), int(count))
            for place, count in zip(places, counts, strict=True)
        )
        return cls((rows, columns), block, tuple(blocks))

    @property
    def nbytes(self) -> int:
        """Return the bytes of the matrix in a file."""
        return _HEADER_BYTES + sum(block.nbytes for block in self.blocks)

    def to_bytes(self) -> bytes:
        """Return the bytes of the matrix, in the layout that the module describes."""
        parts = [
            np.array(self.block, "<u2").tobytes(),
            np.array([block.transform for block in self.blocks], np.uint8).tobytes(),
            np.array([block.indices.size for block in self.blocks], "<u2").tobytes(),
            np.array([block.surface for block in self.blocks], "<f4").tobytes(),
        ]
        for block in self.blocks:
            parts.append(block.indices.astype("<u2").tobytes())
            parts.append(block.values.astype("<f4").tobytes())
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, shape: tuple[int, int]) -> "ClassicMatrix":
        """Parse the bytes that `to_bytes` writes. Indices and values stay views of `data`.

        Raises:
            PayloadError: the bytes are not a matrix of this shape.
        """
        if len(data) < _HEADER_BYTES:
            raise PayloadError(f"{len(data)} bytes are too few for a classic matrix")
        block = int(np.frombuffer(data, "<u2", 1)[0])
        if not MIN_BLOCK <= block <= MAX_BLOCK:
            raise PayloadError(f"a classic matrix has blocks of {block} columns")
        count = -(-shape[0] // block) * -(-shape[1] // block)
        start = _HEADER_BYTES + _BLOCK_BYTES * count
        if len(data) < start:
            raise PayloadError(f"{len(data)} bytes are too few for a matrix of {count} blocks")
        transforms = np.frombuffer(data, np.uint8, count, _HEADER_BYTES)
        counts = np.frombuffer(data, "<u2", count, _HEADER_BYTES + count)
        surfaces = np.frombuffer(data, "<f4", _FUNCTIONS * count, _HEADER_BYTES + 3 * count)
        if len(data) != start + _COEFFICIENT_BYTES * int(counts.sum()):
            raise PayloadError("a classic matrix's coefficients do not fill its bytes")
        if transforms.max() >= len(TRANSFORMS):
            raise PayloadError(f"a classic matrix has the unknown transform {transforms.max()}")
        blocks = []
        for index, place in enumerate(_places(shape, block)):
            size = int(counts[index])
            indices = np.frombuffer(data, "<u2", size, start)
            values = np.frombuffer(data, "<f4", size, start + 2 * size)
            surface = surfaces[_FUNCTIONS * index : _FUNCTIONS * (index + 1)]
            _check_block(indices, values, surface, place)
            blocks.append(ClassicBlock(int(transforms[index]), surface, indices, values))
            start += _COEFFICIENT_BYTES * size
        return cls(shape, block, tuple(blocks))

    @property
    def surfaces(self) -> Floating:
        """Return the factors of the smooth functions of all blocks, `[blocks, 8]`."""
        return np.stack([block.surface for block in self.blocks])

    @property
    def coefficients(self) -> Floating:
        """Return the coefficients of all blocks, `[n]`."""
        return np.concatenate([block.values for block in self.blocks])

    def decoded(self) -> Floating:
        """Return all weights `[K, N]`, read-only. They are decoded once and kept."""
        return self._dense

    @cached_property
    def _dense(self) -> Floating:
        found = self.decode()
        found.flags.writeable = False
        return found

    @property
    def kept_bytes(self) -> int:
        """Return the bytes of the decoded weights, or 0 if they were not needed yet."""
        return self._dense.nbytes if "_dense" in vars(self) else 0

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Pickle the matrix without its decoded weights."""
        return ClassicMatrix, (self.shape, self.block, self.blocks)

    def parameters(self) -> dict[str, Floating]:
        """Return `.surfaces` `[blocks, 8]` and `.coefficients` `[n]`, those of all blocks."""
        return {".surfaces": self.surfaces, ".coefficients": self.coefficients}

    def with_parameters(self, values: Mapping[str, Floating]) -> "ClassicMatrix":
        """Return a matrix with other factors and coefficients, at the same indices."""
        surfaces, coefficients = values[".surfaces"], values[".coefficients"]
        ends = np.cumsum([block.indices.size for block in self.blocks])[:-1]
        blocks = (
            replace(block, surface=surface, values=values)
            for block, surface, values in zip(
                self.blocks, surfaces, np.split(coefficients, ends), strict=True
            )
        )
        return ClassicMatrix(self.shape, self.block, tuple(blocks))

    def parameter_gradients(self, grad: Floating) -> dict[str, Floating]:
        """Return the gradients of both parameters, given that of the weights `[K, N]`."""
        found = [
            block.gradients(grad[place].astype(np.float64))
            for block, place in zip(self.blocks, _places(self.shape, self.block), strict=True)
        ]
        surfaces, coefficients = zip(*found, strict=True)
        return {
            ".surfaces": np.stack(surfaces).astype(grad.dtype),
            ".coefficients": np.concatenate(coefficients).astype(grad.dtype),
        }

    def decode(self) -> Floating:
        """Return the whole matrix `[K, N]`, clipped to the range of float32.

        It is float32, or float64 if the parameters are float64.
        """
        out = np.empty(self.shape, np.result_type(self.blocks[0].surface, np.float32))
        for block, place in zip(self.blocks, _places(self.shape, self.block), strict=True):
            values = block.decode(_extent(place))
            out[place] = np.clip(values, -_LARGEST, _LARGEST)
        return out


Place = tuple[slice, slice]


def _places(shape: tuple[int, int], block: int) -> Iterator[Place]:
    """Yield (rows, columns) of each block, row by row."""
    for top in range(0, shape[0], block):
        for left in range(0, shape[1], block):
            yield (
                slice(top, min(top + block, shape[0])),
                slice(left, min(left + block, shape[1])),
            )


def _extent(place: Place) -> tuple[int, int]:
    rows, columns = place
    return rows.stop - rows.start, columns.stop - columns.start


def _check_block(
    indices: NDArray[np.uint16], values: Float32, surface: Float32, place: Place
) -> None:
    """Raise `PayloadError` if a block is malformed, so that decoding can rely on it."""
    rows, columns = _extent(place)
    if indices.size and (int(indices[-1]) >= rows * columns or (indices[1:] <= indices[:-1]).any()):
        raise PayloadError("a classic block's indices do not ascend within the block")
    if not (np.isfinite(values).all() and np.isfinite(surface).all()):
        raise PayloadError("a classic block holds NaN or infinite values")


@lru_cache(maxsize=16)
def _functions(shape: tuple[int, int]) -> Float64:
    """Return the smooth functions at every position, float64 `[rows * columns, 8]`."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape[::-1]))
    square = x * x + y * y
    across, down = np.cos(np.pi * x), np.cos(np.pi * y)
    functions = [
        *(np.ones(shape), np.sqrt(square), square, across, down),
        *(np.cos(2 * np.pi * x), np.cos(2 * np.pi * y), across * down),
    ]
    return np.stack(functions, axis=-1).reshape(-1, _FUNCTIONS)


@lru_cache(maxsize=16)
def _least_squares(shape: tuple[int, int]) -> Float64:
    """Return the map from a block's weights to its surface, float64 `[8, rows * columns]`."""
    return np.asarray(np.linalg.pinv(_functions(shape)), np.float64)


def _encode_block(weights: Float64, count: int) -> ClassicBlock:
    """Encode a block with `count` coefficients of the transform with the smallest error."""
    shape = (weights.shape[0], weights.shape[1])
    surface = _float32(_least_squares(shape) @ weights.ravel())
    residual = weights - (_functions(shape) @ surface.astype(np.float64)).reshape(shape)
    candidates = [
        ClassicBlock(index, surface, *_largest(residual, name, count))
        for index, name in enumerate(TRANSFORMS)
    ]
    return min(candidates, key=lambda block: float(np.linalg.norm(weights - block.decode(shape))))


def _largest(residual: Float64, name: str, count: int) -> tuple[NDArray[np.uint16], Float32]:
    """Return (indices, values) of the largest coefficients of a transform."""
    left, _ = transform(name, residual.shape[0])
    right, _ = transform(name, residual.shape[1])
    coefficients = (left @ residual @ right.T).ravel()
    order = np.argsort(-np.abs(coefficients), kind="stable")
    chosen = np.sort(order[:count])
    return chosen.astype(np.uint16), _float32(coefficients[chosen])


def _float32(values: Float64) -> Float32:
    """Round values to float32, and clip those beyond its range."""
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)
