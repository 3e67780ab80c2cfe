import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def reachable():
    """Return a temporary folder that every user can enter, which pytest's folders are not."""
    with tempfile.TemporaryDirectory(prefix="oh-walls-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
