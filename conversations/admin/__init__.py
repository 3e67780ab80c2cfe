"""The staff desk's lists of conversations; importing it registers them."""

from conversations.admin import conversations

__all__ = ["conversations"]
