"""The fixture of the running server, which all flows share."""

from tests.fakes.stack import pytest_runtest_makereport, stack

__all__ = ["pytest_runtest_makereport", "stack"]
