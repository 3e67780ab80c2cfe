"""Fixtures of a conversation and its fake engine, shared with the tests of ``conversations``."""

from tests.conversations.conftest import conversation, engine, running, sandboxes

__all__ = ["conversation", "engine", "running", "sandboxes"]
