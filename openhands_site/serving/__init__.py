"""ASGI and WSGI wrappers around Django: worker threads, body limits, client addresses, origins and sockets."""
