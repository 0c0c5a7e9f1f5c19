"""Make the checkpoint if none is given, and the logits that all engines are held to.

A process of its own: what it holds in memory is not to be inherited, as a peak, by the processes
that are measured.
"""

import json
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines.job import (
    CHECKED_TOKENS,
    DECODED_TOKENS,
    DEPTH,
    PREFILL_TOKENS,
    some_tokens,
)
from benchmarks.engines.random_checkpoint import GPT2_124M, write_random
from rbe_cli.checkpoint.checkpoint import Checkpoint, Float32
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.errors import RbeError, UsageError
from rbe_cli.model.config import Gpt2Config

REFERENCE = Path(__file__).parents[2] / "tests" / "reference_gpt2.py"


def prepare(source: str | None, work: Path, seed: int) -> dict[str, object]:
    """Return the subject of the comparison, under the names of `EngineSubject`.

    Args:
        source: as of `rbe compress`; None for a random GPT-2 of 124 million parameters.
        work: the folder that keeps what is made.
        seed: of the random one.
    """
    if source is None:
        source = str(work / f"random-{seed}")
        if not Path(source).exists():
            write_random(GPT2_124M, seed, Path(source))
    checkpoint = open_checkpoint(source)
    check_config(checkpoint.config)
    folder = work / checkpoint.source_hash.replace(":", "-")
    folder.mkdir(exist_ok=True)
    reference = folder / "reference.npy"
    if not reference.exists():
        np.save(reference, reference_logits(checkpoint))
    return {"source": source, "folder": str(folder), "vocab_size": checkpoint.config.vocab_size}


def check_config(config: Gpt2Config) -> None:
    """Refuse what the peers' graphs here do not compute.

    Raises:
        UsageError: naming what it is.
    """
    needed = max(PREFILL_TOKENS, DEPTH + DECODED_TOKENS)
    if config.n_positions < needed:
        raise UsageError(
            f"the model's context of {config.n_positions} tokens is shorter than the {needed} "
            "that are timed"
        )
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise UsageError(f"activation {config.activation_function} is not among the peers'")
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        raise UsageError("attention that is not scaled by the root of its width is not compared")


def reference_logits(checkpoint: Checkpoint) -> Float32:
    """Return the logits after the checked prompt, `[vocab]`, by numpy in float32."""
    gpt2 = runpy.run_path(str(REFERENCE))["gpt2"]
    tokens: NDArray[np.int64] = np.array(
        some_tokens(CHECKED_TOKENS, checkpoint.config.vocab_size), np.int64
    )
    tensors: Mapping[str, Float32] = dict(checkpoint.tensors)
    return np.asarray(gpt2(tokens, tensors, checkpoint.config)[-1], np.float32)


def main() -> None:
    work, seed, *sources = sys.argv[1:]
    try:
        found = prepare(sources[0] if sources else None, Path(work), int(seed))
    except RbeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
