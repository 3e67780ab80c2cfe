"""The integrations app."""

from django.apps import AppConfig


class IntegrationsConfig(AppConfig):
    name = "integrations"

    def ready(self) -> None:
        from conversations import repositories
        from integrations import services

        repositories.set_resolver(services.clone_source)
