"""The HTTP edge of signing in: authentication of requests, sessions, second factors and identity providers."""
