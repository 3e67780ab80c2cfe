"""The routes for sign-in, accounts, keys and secrets that existing OpenHands clients call."""
