"""Operation of the server: embedded services, the process supervisor, rolling restarts and the list of nodes."""
