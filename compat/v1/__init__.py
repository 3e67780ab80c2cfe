"""The V1 protocol of existing clients: app conversations, sandboxes, events, and their socket."""
