"""`forgery`: a valid file whose parts a test changes."""

from pathlib import Path

import pytest
from attacks.forged_file import Forgery


@pytest.fixture
def forgery(tmp_path: Path) -> Forgery:
    return Forgery(tmp_path / "forged.rbe")
