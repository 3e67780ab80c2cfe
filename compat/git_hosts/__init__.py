"""The routes for Git hosts that existing OpenHands clients call."""
