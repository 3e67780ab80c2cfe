"""The conversation managers that are up, as the database knows them: claims need no Redis."""

from typing import TYPE_CHECKING

from django.db import models
from django.db.models.functions import Now

if TYPE_CHECKING:
    from django.db.models import QuerySet


class LiveManagerQuerySet(models.QuerySet["LiveManager"]):
    def alive(self) -> "QuerySet[LiveManager]":
        """Managers whose time has not run out, by the database's clock."""
        return self.filter(expires_at__gt=Now())


class LiveManager(models.Model):
    """A manager that is up. It renews ``expires_at``; whose time has run out holds no leases."""

    owner = models.CharField(max_length=100, primary_key=True)
    capacity = models.PositiveIntegerField(help_text="Conversations that it follows at most.")
    followed = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    objects = LiveManagerQuerySet.as_manager()

    def __str__(self) -> str:
        return self.owner
