"""Where Git hosts are reached."""


def web_url(host: str) -> str:
    """Where a host is reached: by https, and on this machine itself by http."""
    name = host.partition(":")[0]
    return f"{'http' if name in ('127.0.0.1', 'localhost') else 'https'}://{host}"
