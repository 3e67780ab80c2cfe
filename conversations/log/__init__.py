"""Functions that read conversations and their logs: fast queries, records, and events as readable text."""
