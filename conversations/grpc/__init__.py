"""The gRPC API ``openhands.v1.EventService``: programs publish and follow the events of conversations."""
