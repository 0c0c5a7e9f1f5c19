"""Check that an engine computes what the others do."""

from pathlib import Path

import numpy as np

from benchmarks.engines.contestant import Contestant, EngineSubject
from rbe_cli.errors import QualityError

CHECKED_BITS = 8  # and more: what fewer bits do to random weights is no error of the engine
LEAST_COSINE = 0.99


def check_logits(contestant: Contestant, subject: EngineSubject, variant: str) -> float:
    """Return the cosine of the engine's logits with those of numpy in float32, less their means.

    Raises:
        QualityError: it is too small.
    """
    path = subject.folder / "logits.npy"
    contestant.write_logits(subject, variant, path)
    found = cosine(path, subject.reference)
    if not found >= LEAST_COSINE:
        raise QualityError(
            f"{contestant.name} {variant} does not compute the same model: the cosine of its "
            f"logits with the reference's is {found:.5f}, less than {LEAST_COSINE}"
        )
    return found


def cosine(first: Path, second: Path) -> float:
    """Return the cosine of the vectors in two `.npy` files, each less its mean."""
    a, b = (np.load(path).astype(np.float64) for path in (first, second))
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
