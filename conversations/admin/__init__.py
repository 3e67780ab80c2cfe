"""The admin pages of conversations; importing this package registers them."""

from conversations.admin import conversations, egress, jobs

__all__ = ["conversations", "egress", "jobs"]
