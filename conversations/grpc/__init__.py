"""gRPC for programs: events in and out of conversations, ``openhands.v1.EventService``."""
