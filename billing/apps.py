"""The app configuration of billing."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
