"""The admin pages of accounts. Importing this package registers them with Django's admin site."""

from accounts.admin import audit, groups, identity, people, second_factor, settings

__all__ = ["audit", "groups", "identity", "people", "second_factor", "settings"]
