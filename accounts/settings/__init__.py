"""The settings that people and organizations have: their fields and MCP servers."""
