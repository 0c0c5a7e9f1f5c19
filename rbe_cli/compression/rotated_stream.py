"""Rotate the residual stream of a checkpoint, so that its weights take fewer bits.

What a rotation is and what it changes is in `codec/stream_rotation.py`.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.codec.stream_rotation import StreamRotation, folded
from rbe_cli.compression.rotation_search import find_rotation
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.model.tensor_names import ROTATION, stored_shapes
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float32
from rbe_cli.runtime.thread_team import Team
from rbe_cli.weights.on_demand import OnDemand


def with_rotated_stream(
    checkpoint: Checkpoint,
    plans: Iterable[TensorPlan],
    folder: WorkFolder,
    team: Team,
    progress: Progress,
) -> tuple[Mapping[str, Float32], StoredTensor | None]:
    """Return all tensors in a basis of the stream in which they take fewer bits, if there is one.

    The stream is rotated only if the codecs of all matrices gain from it, no rule keeps a vector
    of a layer exactly, and the rotation takes fewer bits than it saves.

    Args:
        checkpoint: the model.
        plans: the plans of all tensors.
        folder: keeps the rotation and what was changed.
        team: the threads that multiply.
        progress: is called before and after the search for a rotation.

    Returns:
        The tensors by name, float32, each of which is read anew, and the encoded rotation. With
        a rotation its decoded values are among the tensors. Without one, these are the
        checkpoint's, and the second is None.
    """
    if not may_rotate(plans):
        return checkpoint.tensors, None
    originals = OnDemand(checkpoint.tensors, lambda name: folded(name, checkpoint.tensors))

    def find() -> Arrays:
        """Return the bytes of the encoded rotation, none without one."""
        progress("rotating", 0, 1)
        data = find_rotation(checkpoint.config, originals, team) or b""
        progress("rotating", 1, 1)
        return {"bytes": np.frombuffer(data, np.uint8)}

    data = folder.keep("rotation", find)["bytes"].tobytes()
    if not data:
        return checkpoint.tensors, None
    shape = stored_shapes(checkpoint.config)[ROTATION]
    stored = StoredTensor(ROTATION, shape, ECTCQ.name, data)
    coded = stored.decode()
    rotation = StreamRotation.of_coded(coded, team)

    def read(name: str) -> Float32:
        if name == ROTATION:
            return coded
        kept = folder.keep(
            f"rotated-{name}", lambda: {"values": rotation.rotated(name, originals[name])}
        )
        return kept["values"]

    return OnDemand([*checkpoint.tensors, ROTATION], read), stored


def may_rotate(plans: Iterable[TensorPlan]) -> bool:
    """Return whether all tensors but those of the last LayerNorm may have other values.

    The codecs of matrices must gain from it.
    """
    return all(
        plan.codec.gains_from_bases
        if plan.is_matrix
        else plan.name.startswith("ln_f.") or not plan.options.is_asked
        for plan in plans
    )
