"""Definitions of the settings that users and organizations can change."""
