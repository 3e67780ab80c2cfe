"""OpenID Connect: providers, their tokens, signing in with them, and their word that somebody left."""
