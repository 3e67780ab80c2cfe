"""The state of maintenance mode, stored in one row."""

from django.db import models


class Maintenance(models.Model):
    """The maintenance mode of the server: the switch, the message for users, and the retry delay in seconds."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    is_on = models.BooleanField(default=False)
    sentence = models.CharField(max_length=300, blank=True)
    retry_after = models.PositiveIntegerField(default=300)
    planned_for = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When the next maintenance begins. Clients announce this time. Maintenance mode does not turn on "
        "automatically.",
    )
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "maintenance"

    def __str__(self) -> str:
        return "on" if self.is_on else "off"
