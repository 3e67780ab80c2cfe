"""The agent engine: its HTTP and socket client, and the payloads of its protocol."""
