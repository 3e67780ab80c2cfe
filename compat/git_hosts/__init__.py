"""The routes of existing OpenHands clients for Git hosts such as GitHub."""
