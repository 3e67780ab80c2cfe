"""The accounts app."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import sign_ins  # noqa: F401 - listens for people who sign in
        from accounts.api import schemes  # noqa: F401 - registers itself with drf-spectacular
