"""The forms of the pages of accounts."""
