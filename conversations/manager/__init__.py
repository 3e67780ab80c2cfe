"""Follow live conversations: claim a share of them and store the events of their engines."""
