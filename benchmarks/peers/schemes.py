"""List the schemes of others, each at its rates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.peers import gptq, hqq, kquants, rtn
from benchmarks.peers.grid import GROUP
from benchmarks.peers.measure import SchemeSubject
from benchmarks.peers.quantised import Float32, QuantisedMatrix
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.config import Gpt2Config

BITS = (2, 3, 4)


@dataclass(frozen=True)
class Scheme:
    """Quantise by one scheme at one rate.

    Attributes:
        family, rate: as `Point.scheme` and `Point.rate`.
        quantise: the matrix of a name, `[K, N]`.
    """

    family: str
    rate: str
    quantise: Callable[[str, Float32], QuantisedMatrix]

    def apply(self, subject: SchemeSubject, workers: Workers) -> dict[str, QuantisedMatrix]:
        """Return all matrices of the subject, quantised several side by side."""

        def quantise(name: str) -> QuantisedMatrix:
            return self.quantise(name, subject.matrix(name))

        return dict(zip(subject.names, workers.map(quantise, subject.names), strict=True))


def grids(moments: Mapping[str, Float32]) -> list[Scheme]:
    """Return round to nearest, HQQ and GPTQ.

    Args:
        moments: E[x x^T] `[K, K]` of each matrix's inputs on calibration text, by name.
    """

    def by_rtn(bits: int) -> Scheme:
        return Scheme(
            f"round to nearest g{GROUP}",
            f"{bits} bits",
            lambda name, weights: rtn.quantise(weights, bits),
        )

    def by_hqq(bits: int) -> Scheme:
        return Scheme(
            f"HQQ g{hqq.GROUP}", f"{bits} bits", lambda name, weights: hqq.quantise(weights, bits)
        )

    def by_gptq(bits: int) -> Scheme:
        return Scheme(
            f"GPTQ g{GROUP}",
            f"{bits} bits",
            lambda name, weights: gptq.quantise(weights, moments[name], bits),
        )

    return [make(bits) for make in (by_rtn, by_hqq, by_gptq) for bits in BITS]


def ggml(config: Gpt2Config, moments: Mapping[str, Float32] | None) -> list[Scheme]:
    """Return llama.cpp's K-quants: all matrices of one type (its `--pure`), and its usual mixes.

    Args:
        config: of the model.
        moments: as in `grids`, for an importance matrix; None for none.
    """
    suffix = "" if moments is None else ", imatrix"

    def quantise(type_name: str, name: str, weights: Float32) -> QuantisedMatrix:
        importance = None if moments is None else np.diagonal(moments[name])
        return kquants.quantise(weights, kquants.fitting_type(type_name, len(weights)), importance)

    def pure(type_name: str) -> Scheme:
        return Scheme(
            f"llama.cpp K-quants{suffix}",
            type_name,
            lambda name, weights: quantise(type_name, name, weights),
        )

    def mixed(mix: str) -> Scheme:
        return Scheme(
            f"llama.cpp mixes{suffix}",
            mix,
            lambda name, weights: quantise(kquants.mixed_type(mix, name, config), name, weights),
        )

    return [pure(name) for name in kquants.PURE] + [mixed(name) for name in kquants.MIXES]
