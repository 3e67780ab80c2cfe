"""The accounts app."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts.api import schemes  # noqa: F401 - registers itself with drf-spectacular
        from accounts.sign_in import audit_log  # noqa: F401 - listens for failed sign-ins
