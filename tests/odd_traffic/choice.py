"""How many of the odd inputs a run sends: a few in `make test`, more in `make test-slow`, all with ``ODD_SHARE=1``."""

import os
import random
from collections.abc import Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")
ALL = float(os.environ.get("ODD_SHARE", "0"))
"""Set ``ODD_SHARE`` to the share of the inputs that the slow tests send, up to 1."""
SHARES = [0.025, pytest.param(ALL or 0.08, marks=pytest.mark.slow)]


def choose(cases: Sequence[T], share: float) -> list[T]:
    """Return a share of the cases in their order. The choice is the same in every run."""
    chosen = random.Random(13).sample(range(len(cases)), max(1, round(len(cases) * share)))
    return [cases[n] for n in sorted(chosen)]
