"""The path from bytes to Django: threads, bodies, addresses, origins, sockets."""
