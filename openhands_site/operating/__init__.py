"""Operate the server: services beside it, the supervisor of its processes, restarts, the list of nodes."""
