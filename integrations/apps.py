"""The Django app of integrations with Git hosts, and of this server's MCP tools."""

from django.apps import AppConfig


class IntegrationsConfig(AppConfig):
    name = "integrations"

    def ready(self) -> None:
        # The conversations app may not import integrations (import order), so it receives the function here.
        from conversations import repositories
        from integrations import services

        repositories.set_resolver(services.clone_source)
