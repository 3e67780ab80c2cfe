"""Functions that connect to a port of this machine, as a provider's ``dial`` does."""

import socket

from conversations.engine.transport import Dial


def build_dial(port: int, *, seconds: float = 5.0) -> Dial:
    """Return a function that connects to a port of 127.0.0.1 within ``seconds``."""

    def dial() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), seconds)
        connection.settimeout(None)
        return connection

    return dial
