"""The routes of existing OpenHands clients for sign-in, accounts, API keys and secrets."""
