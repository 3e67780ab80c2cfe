"""Model servers on this machine that an administrator has allowed for all users."""

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class AllowedModelServer(models.Model):
    """A model server on the server's own machine that all users may use, by its port on the loopback addresses.

    The row has an effect only while ``url_guard.is_by_permission`` is true. ``name`` is the kind of the server, such as
    "Ollama", as it was found when it was allowed.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    port = models.PositiveIntegerField(unique=True)
    name = models.CharField(max_length=80)
    allowed_by = models.ForeignKey("accounts.User", models.SET_NULL, null=True, editable=False)
    allowed_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"{self.name} at port {self.port} of this machine"
