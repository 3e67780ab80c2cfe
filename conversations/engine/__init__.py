"""The interface to the agent engine, which runs in each sandbox: a client for HTTP and sockets, and typed payloads."""
