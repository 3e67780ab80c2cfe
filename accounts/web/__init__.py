"""The HTML pages of accounts: sign-in, settings, organizations, API keys and devices."""
