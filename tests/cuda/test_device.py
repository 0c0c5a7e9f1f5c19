"""What is missing is said in one sentence."""

import os

import pytest
from deadlines import run_python

from rbe_cli.cuda import device
from rbe_cli.errors import UsageError

CHECK = """
from rbe_cli.cuda.device import check_device
from rbe_cli.errors import UsageError
try:
    check_device()
except UsageError as error:
    print(error)
"""


def test_the_simulator_counts_as_a_device() -> None:
    assert device.is_simulated()
    device.check_device()


def test_a_machine_without_a_gpu_is_refused() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # hides the GPU of a machine that has one
    done = run_python(CHECK, env=hidden, check=True)
    assert done.stdout == "`backend` cuda needs an NVIDIA GPU with its driver, and finds none\n"


@pytest.mark.parametrize("missing", ["numba", "numba_cuda"])
def test_a_missing_library_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(UsageError, match=r"needs numba-cuda: pip install 'rbe-cli\[cuda\]'"):
        device.check_device()


def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # A simulated GPU has the capability 5.2.
    monkeypatch.setattr(device, "is_simulated", lambda: False)
    with pytest.raises(UsageError, match=r"capability 8\.0 or more, not 5\.2"):
        device.check_device()
    monkeypatch.setattr(device, "LEAST_CAPABILITY", (5, 2))
    device.check_device()
