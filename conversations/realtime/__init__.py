"""Delivery of event logs to clients: one hub per process, subscriptions, sockets and held responses."""
