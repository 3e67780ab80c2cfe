"""The staff desk's lists of model access, calls and usage; importing it registers them."""

from billing.admin import usage

__all__ = ["usage"]
