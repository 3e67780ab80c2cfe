"""The attempts as the server sees them: it imports the modules that otherwise run inside a sandbox."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from attempts import files, inside, kernel, network, processes  # noqa: F401 - they register attempts
from attempts.catalog import ATTEMPTS, Attempt

__all__ = ["ATTEMPTS", "Attempt"]
