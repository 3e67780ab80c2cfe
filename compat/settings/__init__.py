"""The settings routes of existing OpenHands clients."""
