"""The wire protocols of existing OpenHands clients; they translate, and the services decide."""
