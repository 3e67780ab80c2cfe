"""The model gateway: OpenAI-compatible calls that are authorized by gateway tokens, metered and sent upstream."""
