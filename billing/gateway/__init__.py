"""The model gateway: OpenAI-compatible calls, metered by conversation token and sent upstream."""
