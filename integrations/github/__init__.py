"""The integration with GitHub and GitHub Enterprise Server through personal access tokens."""
