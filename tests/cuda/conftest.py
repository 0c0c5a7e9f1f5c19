"""Run the kernels of these tests in Numba's simulator of CUDA, as no GPU is needed for it.

The simulator is chosen when `numba.cuda` is imported, which happens here and nowhere else in the
tests. Numba itself may have been imported before, so that its settings are read again. The variable
is taken back at once, so that processes that tests start do not inherit it.
"""

import os

import pytest
from numba.core import config

with pytest.MonkeyPatch.context() as patch:
    patch.setitem(os.environ, "NUMBA_ENABLE_CUDASIM", "1")
    config.reload_config()
    from numba import cuda  # noqa: F401 - see above

from rbe_cli.cuda import attention_kernels, device_cache, device_layer_norm, paged_attention


@pytest.fixture(scope="module")
def small_blocks():
    """Let blocks have few threads: the simulator takes a thread of Python for each."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (attention_kernels, device_cache, paged_attention):
            patch.setattr(module, "PAGE", 2)
        for name in ("_BLOCK_THREADS", "_COLUMN_THREADS"):
            patch.setattr(device_layer_norm, name, 4)
        yield
