"""Delivery of event logs to clients.

Each process has one hub, which reads every followed log once for all clients of the process. The hub has one feed for
each followed conversation. A subscription is one client's cursor in a feed. Sockets, gRPC and held HTTP responses
send the frames of a subscription.
"""
