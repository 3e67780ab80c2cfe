"""The egress proxy of a sandbox: the only way out of it. Plain asyncio, without Django, for the sandbox's keeper."""
