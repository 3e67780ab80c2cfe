"""Deliver the log to clients: one hub for a process, subscriptions, sockets and held requests."""
