"""What all tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

# Compilation and shared machines make single examples slow; slowness is no failure here.
settings.register_profile("rbe", deadline=None)
settings.load_profile("rbe")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    """Real checkpoints and texts beside the repository; None where there are none."""
    return SHARED_DATA if SHARED_DATA.is_dir() else None
