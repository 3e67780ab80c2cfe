"""Settings of a reference server with one view, no middleware and no authentication."""

from openhands_site.settings import *  # noqa: F403, TID251 - this is a settings module too

MIDDLEWARE: list[str] = []
ROOT_URLCONF = "bench.bare"
