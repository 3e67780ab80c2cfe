"""The same server with nothing of ours in it: one view, no middleware, no authentication."""

from openhands_site.settings import *  # noqa: F403, TID251 - these are settings too

MIDDLEWARE: list[str] = []
ROOT_URLCONF = "bench.bare"
