"""Find out whether this machine can run the kernels for CUDA."""

from importlib.util import find_spec
from typing import Any

from rbe_cli.errors import UsageError

LEAST_CAPABILITY = (8, 0)
"""The oldest compute capability that has all instructions of the kernels."""
_INSTALL = "pip install 'rbe-cli[cuda]'"


def check_device() -> None:
    """Refuse to go on where a library, the driver or a fitting GPU is missing.

    Raises:
        UsageError: naming what is missing.
    """
    if find_spec("numba") is None or find_spec("numba_cuda") is None:
        raise UsageError(f"`backend` cuda needs numba-cuda: {_INSTALL}")
    from numba import cuda

    if is_simulated():
        return
    if cuda.is_available():
        _check_capability(cuda.get_current_device().compute_capability)
        return
    from numba.cuda.cudadrv.driver import driver

    if driver.is_available:
        raise UsageError(f"`backend` cuda does not find CUDA's compiler libraries: {_INSTALL}")
    raise UsageError("`backend` cuda needs an NVIDIA GPU with its driver, and finds none")


def is_simulated() -> bool:
    """Whether kernels run in Numba's simulator, on the CPU (`NUMBA_ENABLE_CUDASIM=1`)."""
    from numba import cuda

    config: Any = cuda.config
    return bool(config.ENABLE_CUDASIM)


def _check_capability(found: tuple[int, int]) -> None:
    if tuple(found) < LEAST_CAPABILITY:
        needed, own = (".".join(map(str, pair)) for pair in (LEAST_CAPABILITY, found))
        raise UsageError(
            f"`backend` cuda needs a GPU of compute capability {needed} or more, not {own}"
        )


def device_name() -> str:
    """Return the name of the GPU, or of the simulator."""
    from numba import cuda

    if is_simulated():
        return "Numba's simulator of CUDA"
    name: bytes | str = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else name


def free_bytes() -> float:
    """Return the bytes of the GPU's memory that are free; infinite in the simulator."""
    from numba import cuda

    return float(cuda.current_context().get_memory_info().free)
