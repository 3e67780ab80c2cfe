"""The REST API of Git hosts."""
