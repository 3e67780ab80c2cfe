"""The site itself: settings, addresses, health and the first-run commands. It has no models."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "openhands_site"
