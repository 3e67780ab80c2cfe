"""A conversation with an engine, as the tests of conversations have it."""

from tests.conversations.conftest import conversation, engine, running, sandboxes

__all__ = ["conversation", "engine", "running", "sandboxes"]
