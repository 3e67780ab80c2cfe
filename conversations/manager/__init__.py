"""The conversation manager, which claims a share of the live conversations and stores their engines' events."""
