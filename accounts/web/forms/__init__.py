"""Forms of the pages of accounts."""
