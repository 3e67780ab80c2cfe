"""Connections to Git hosts, chat and ticket tools. None is built yet: this app marks their place."""
