import os
import sys

import numpy as np
import pytest
from deadlines import run_python
from small_models import random_tensors, small_config

from rbe_cli.engine.warm_up import warm_up
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2

EVERYTHING_A_MODEL_RUNS = """
import sys
import numpy as np
from small_models import as_panels, random_tensors, small_config
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.session import Session
from rbe_cli.engine.warm_up import warm_up
from rbe_cli.runtime import libraries, native
from rbe_cli.runtime.thread_team import get_team
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2

config = small_config()
panels = as_panels(random_tensors(config), 7)[0]
model = Gpt2(config, panels, load_kernels("fast", 1))
warm_up(model.kernels, lambda *progress: None)
session = Session(LoadedModel(config, panels), 6, team=get_team(1))
before = set(native._loaded)
for row in range(6):
    session.prefill(row, np.arange(1 + row))
session.decode(range(6), np.arange(6))
session.decode([3], np.arange(1))
model.forward(np.ones((2, 9), np.int64), observe=lambda name, x: None)
loaded = {libraries.library_of(program) for program, _ in before}
print(before == set(native._loaded), sorted(loaded), "numba" in sys.modules)
"""


def test_nothing_is_left_to_compile():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = run_python(EVERYTHING_A_MODEL_RUNS, env=environment)
    assert result.stdout == "True ['engine', 'layers', 'products'] False\n", result.stderr


def test_compiled_kernels_are_silent():
    config = small_config()
    model = Gpt2.from_checkpoint(config, random_tensors(config), load_kernels("fast", 1))
    warm_up(model.kernels, lambda *call: None)
    seen = []
    warm_up(model.kernels, lambda *call: seen.append(call))
    assert seen == []


def test_reference_kernels_have_nothing_to_compile(monkeypatch):
    config = small_config()
    model = Gpt2.from_checkpoint(config, random_tensors(config), load_kernels("reference"))
    monkeypatch.setattr("rbe_cli.engine.warm_up.prepare", pytest.fail)
    warm_up(model.kernels, pytest.fail)
    assert np.isfinite(model.forward(np.ones((1, 2), np.int64))).all()
