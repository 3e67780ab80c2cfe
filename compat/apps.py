"""The configuration of the compat app, which has no models."""

from django.apps import AppConfig


class CompatConfig(AppConfig):
    name = "compat"
