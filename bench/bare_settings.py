"""Settings of a reference server that has only plain views, no middleware and no authentication."""

from openhands_site.settings import *  # noqa: F403, TID251 - this is a settings module too

MIDDLEWARE: list[str] = []
ROOT_URLCONF = "bench.bare"
