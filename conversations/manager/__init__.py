"""The conversation manager: a process that claims live conversations and stores the events of their engines."""
