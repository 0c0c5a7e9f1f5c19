import pytest
from small_models import as_panels, random_tensors, small_config

from rbe_cli.engine.loaded_model import LoadedModel


@pytest.fixture(scope="session")
def model():
    config = small_config()
    return LoadedModel(config, as_panels(random_tensors(config), 127)[0])
