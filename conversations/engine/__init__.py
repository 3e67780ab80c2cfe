"""The agent engine as this server uses it: its REST client and the payloads that it writes."""
