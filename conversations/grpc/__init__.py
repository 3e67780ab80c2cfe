"""The gRPC API ``openhands.v1.EventService``, with which programs publish and follow the events of conversations."""

import os

# The C core reads this when grpc is imported, and would write lines of its own format to standard error. Its errors
# are also raised as exceptions.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
