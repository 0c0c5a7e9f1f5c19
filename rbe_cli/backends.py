"""Choose what computes: the CPU, or a GPU."""

from typing import TYPE_CHECKING

from rbe_cli.choices import ActivationBits, Backend, KvType
from rbe_cli.errors import UsageError
from rbe_cli.progress import Progress

if TYPE_CHECKING:
    from rbe_cli.cuda.device_network import DeviceNetwork
    from rbe_cli.engine.loaded_model import LoadedModel
    from rbe_cli.engine.row_session import RowSession
    from rbe_cli.runtime.thread_team import Team


def check_backend(
    backend: Backend,
    max_memory: int | None = None,
    activations: ActivationBits | None = None,
    kv_type: KvType | None = None,
) -> None:
    """Refuse a GPU that is not there, and options that do not work with one.

    Args:
        backend: what is to compute.
        max_memory, activations, kv_type: the options of these names; None where not given.

    Raises:
        UsageError: naming the option, or what is missing.
    """
    if backend == "cpu":
        return
    from rbe_cli.cuda.device import check_device

    if max_memory is not None:
        raise UsageError("`max_memory` does not work with `backend` cuda")
    if activations == "8":
        raise UsageError("`activations` 8 does not exist on `backend` cuda: take 16 or auto")
    if kv_type == "int8":
        raise UsageError("`kv_type` int8 does not exist on `backend` cuda: take fp16 or fp32")
    check_device()


def new_session(
    backend: Backend,
    kv_type: KvType,
    activations: ActivationBits,
    model: "LoadedModel",
    team: "Team | None",
    progress: Progress,
) -> "RowSession":
    """Return a session of one row.

    Args:
        backend: what computes; `check_backend` has passed.
        kv_type: how keys and values are kept.
        activations: bits that the CPU rounds a prompt's activations to.
        model: the weights.
        team: the threads of the CPU.
        progress: is called while programs are compiled, if any are.
    """
    if backend == "cuda":
        from rbe_cli.cuda.cuda_session import CudaSession

        return CudaSession(model, 1, kv_type)
    from rbe_cli.engine.session import Session

    return Session(model, 1, kv_type, activations, team, progress)


def device_network(model: "LoadedModel") -> "DeviceNetwork":
    """Return a model's layers on the GPU, for whole forward passes; `check_backend` has passed."""
    from rbe_cli.cuda.device_network import DeviceNetwork

    return DeviceNetwork(model)
