"""HTTP code for signing in: authentication of requests, browser sessions, second factors, identity providers."""
