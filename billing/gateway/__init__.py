"""The model gateway, an OpenAI-compatible API for sandboxes.

It authorizes calls by gateway tokens, forwards them to the user's model server, and records their usage.
"""
