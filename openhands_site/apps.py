"""The Django app of the project itself: settings, URLs, health checks and setup commands. It has no models."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "openhands_site"
