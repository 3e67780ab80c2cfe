"""The compat app. It has no models."""

from django.apps import AppConfig


class CompatConfig(AppConfig):
    name = "compat"
