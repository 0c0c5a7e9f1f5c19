import os
import subprocess
import sys

import numba
import pytest

from rbe_cli.kernels.threads import make_launcher

CONCURRENT = """
import threading, numpy as np
from rbe_cli.kernels.table import load_kernels
from numba.np.ufunc.parallel import threading_layer

kernels = load_kernels("fast", 2)
qkv = np.ones((8, 64, 3 * 64), np.float32)
rows, starts = np.arange(8), np.zeros(8, np.int64)
outs = [np.zeros((8, 64, 64), np.float32) for _ in range(2)]

def work(out):
    keys, values = np.zeros((2, 8, 4, 64, 16), np.float32)
    for _ in range(20):
        kernels.attention(qkv, keys, values, rows, starts, 1.0, out)

workers = [threading.Thread(target=work, args=(out,)) for out in outs]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
print(threading_layer(), all((out == 1).all() for out in outs))
"""


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_python_threads_may_launch_at_once(layer):
    environment = os.environ | {"NUMBA_THREADING_LAYER": layer}
    result = subprocess.run(
        [sys.executable, "-c", CONCURRENT], capture_output=True, text=True, env=environment
    )
    used, is_right = result.stdout.split()
    assert is_right == "True", result.stderr
    assert (used == "workqueue") == (layer == "workqueue")


def test_small_work_stays_on_one_thread():
    launch = make_launcher()
    seen = []
    for work in (1, 10**9):
        launch(lambda: seen.append(numba.get_num_threads()), work)
    assert seen == [1, launch.threads]
