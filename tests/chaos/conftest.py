"""The fixture ``stack``, a running server that the tests of a process share."""

from tests.fakes.stack import pytest_runtest_makereport, stack

__all__ = ["pytest_runtest_makereport", "stack"]
