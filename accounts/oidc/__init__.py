"""The OpenID Connect protocol: requests to identity providers and checks of their tokens."""
