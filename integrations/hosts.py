"""The URLs of Git hosts."""

from lib.addresses import literal_address


def web_url(host: str) -> str:
    """Return the base URL of a Git host: ``http://`` for a loopback address of this machine, else ``https://``."""
    name = host.partition(":")[0]
    address = literal_address(name)
    is_local = name == "localhost" or (address is not None and address.is_loopback)
    return f"{'http' if is_local else 'https'}://{host}"
