"""GitHub and GitHub Enterprise Server, by personal token."""
