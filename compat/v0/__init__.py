"""OpenHands' V0 protocol, unversioned REST routes and Socket.IO, over this server's services and log."""
