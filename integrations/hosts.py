"""The URLs of Git hosts."""


def web_url(host: str) -> str:
    """Return the base URL of a Git host: ``http://`` for the loopback address of this machine, else ``https://``."""
    name = host.partition(":")[0]
    return f"{'http' if name in ('127.0.0.1', 'localhost') else 'https'}://{host}"
