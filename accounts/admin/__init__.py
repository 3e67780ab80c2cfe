"""The staff desk's lists of people, organizations, keys and identity providers; importing it registers them."""

from accounts.admin import audit, identity, people, second_factor, settings

__all__ = ["audit", "identity", "people", "second_factor", "settings"]
