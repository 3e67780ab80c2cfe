"""The gRPC API ``openhands.v1.EventService``, with which programs publish and follow the events of conversations."""
