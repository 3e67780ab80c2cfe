"""The Django app of the project itself: settings, URLs, health checks and setup commands. It has no models."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "openhands_site"

    def ready(self) -> None:
        from openhands_site.operating import tables  # noqa: F401 - registers its system check
