"""The protocol of OpenID Connect: providers and their tokens."""
