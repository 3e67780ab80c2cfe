"""The admin pages of model access, model calls and usage; importing this package registers them."""

from billing.admin import usage

__all__ = ["usage"]
