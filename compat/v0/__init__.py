"""The V0 protocol of existing OpenHands clients: unversioned REST and Socket.IO, over the same services and log."""
