"""Fixtures of a running conversation with a fake engine, shared with the tests of ``conversations``."""

from tests.conversations.conftest import engine, running, sandboxes

__all__ = ["engine", "running", "sandboxes"]
