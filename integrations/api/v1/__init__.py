"""Version 1 of the REST API of Git hosts."""
