import pytest
from small_models import as_panels, random_tensors, small_config

from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2


@pytest.fixture(scope="session")
def fast():
    return load_kernels("fast", threads=1)


@pytest.fixture(scope="session")
def model(fast):
    config = small_config()
    return Gpt2(config, as_panels(random_tensors(config), 127)[0], fast)
