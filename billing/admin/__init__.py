"""The admin pages of model access, model calls and usage. Importing this package registers the pages."""

from billing.admin import usage

__all__ = ["usage"]
