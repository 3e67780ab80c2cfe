"""The running server that these tests share."""

from tests.fakes.stack import pytest_runtest_makereport, stack

__all__ = ["pytest_runtest_makereport", "stack"]
