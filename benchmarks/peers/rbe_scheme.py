"""Run `rbe` itself, through its command line."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.peers.measure import OTHER_BITS, Candidate, SchemeSubject
from rbe_cli.container.reader import Container
from rbe_cli.engine.load import load_model
from rbe_cli.errors import RbeError
from rbe_cli.model.tensor_names import ROTATION
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress

BITS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
MOST_TUNED_BITS = 4.0  # above it, tuning gains nothing that can be measured
KEEP_EMBEDDINGS = ("--override", f"^(wte|wpe|lm_head)=codec=float{OTHER_BITS}")


def compress(
    subject: SchemeSubject, bits: float, layers_only: bool, options: list[str]
) -> Candidate:
    """Return the model that `rbe compress` makes.

    Args:
        subject: its checkpoint is compressed.
        bits: a weight of the whole model; if `layers_only`, of the layers' matrices.
        layers_only: leave the embeddings and the head as float16.
        options: more of the verb's flags.
    """
    if layers_only:
        count, parameters = subject.quantised_parameters, subject.parameters
        bits = (bits * count + OTHER_BITS * (parameters - count)) / parameters
        options = [*KEEP_EMBEDDINGS, *options]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.rbe"
        source = subject.checkpoint.source
        result = _rbe("compress", source, str(path), "--target-bpw", f"{bits:.4f}", *options)
        with Container.open(path) as container:
            kernels = subject.reference.kernels
            loaded = load_model(container, kernels.threads, no_progress)
            model = Gpt2(loaded.config, loaded.weights, kernels)
    matrix_bits = sum(
        tensor["bits_per_weight"] * prod(tensor["shape"])
        for tensor in result["tensors"]
        if tensor["name"] in (*subject.names, ROTATION)
    )
    return Candidate(model, matrix_bits / subject.quantised_parameters, result["bits_per_weight"])


def _rbe(*arguments: str) -> dict[str, Any]:
    """Return the JSON that a verb prints; its errors go to this process's stderr."""
    command = [sys.executable, "-m", "rbe_cli", *arguments, "--format", "json", "--quiet"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode != 0:
        raise RbeError(f"`rbe {arguments[0]}` failed")
    return json.loads(finished.stdout)
