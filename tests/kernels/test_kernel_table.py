from dataclasses import fields
from typing import get_args

import numpy as np
import pytest
from deadlines import run_python

from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.config import Activation


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_tables_are_complete(engine):
    kernels = load_kernels(engine, threads=1)
    assert kernels.engine == engine
    functions = {field.name for field in fields(kernels)} - {"engine", "team", "buffers"}
    assert all(callable(getattr(kernels, name)) for name in functions)


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("name", get_args(Activation))
def test_tables_know_all_activations(engine, name):
    kernels, one = load_kernels(engine, threads=1), np.ones(1, np.float32)
    x, grad = one.copy(), one.copy()
    kernels.activate(name, x)
    kernels.activate_backward(name, one, grad)
    assert 0.7 < x[0] <= 1
    assert 0.8 < grad[0] < 1.2


def test_fewer_than_one_thread_is_refused():
    with pytest.raises(UsageError, match="`threads` 0"):
        load_kernels("fast", threads=0)


def test_more_threads_than_cpus_are_lowered(fast):
    assert fast.threads == 1
    assert 1 <= load_kernels("fast", threads=10_000).threads < 10_000


def test_reference_never_imports_numba():
    code = (
        "import sys; from rbe_cli.kernels.kernel_table import load_kernels;"
        "load_kernels('reference');"
        "import rbe_cli.nn.gpt2; print('numba' in sys.modules)"
    )
    result = run_python(code)
    assert result.stdout == "False\n", result.stderr
