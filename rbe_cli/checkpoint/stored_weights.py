"""Hold the tensors of weight files under the names in the files."""

from dataclasses import dataclass
from typing import Any

from rbe_cli.checkpoint.checkpoint_tensor import CheckpointTensor


@dataclass(frozen=True)
class StoredWeights:
    """Hold what a checkpoint's weight files declare, before it is matched to a GPT-2.

    Attributes:
        tensors: name and tensor of each, under the names stored there; a name may occur twice.
        nbytes: bytes of the files; of a training checkpoint, those of its model's tensors.
        own_config: the configuration that a training script stored beside the weights, under
            its own names; None if there is none.
        notes: what the user should know about the files, one sentence each.
    """

    tensors: list[tuple[str, CheckpointTensor]]
    nbytes: int
    own_config: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
