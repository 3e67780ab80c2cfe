"""Settings for mypy's Django plugin, with placeholder values for the settings that an installation must provide."""

import os

os.environ.setdefault("SECRET_KEY", "for type checks only")
os.environ.setdefault("ENCRYPTION_KEYS", "k1:" + "00" * 32)
os.environ.setdefault("TOKEN_PEPPERS", "p1:" + "00" * 32)
os.environ.setdefault("DATABASE_URL", "postgresql://nobody@localhost/none")
os.environ.setdefault("REDIS_URL", "redis://localhost")
os.environ.setdefault("DATABASE_POOL_SIZE", "0")

from openhands_site.settings import *  # noqa: F403, TID251 - the plugin needs a module to import
