"""What people add to a conversation or do with it: feedback, public links, and the texts they search in."""

from typing import ClassVar

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class Feedback(models.Model):
    """What one user thinks of one event of a log; the newest word counts."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    conversation = models.ForeignKey(
        "conversations.Conversation", models.CASCADE, related_name="feedback", db_index=False
    )
    seq = models.PositiveBigIntegerField(help_text="The event's place in the log.")
    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="+")
    rating = models.PositiveSmallIntegerField(
        validators=[MinValueValidator(1), MaxValueValidator(5)]
    )
    reason = models.TextField(blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "feedback"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["conversation", "seq", "user"], name="feedback_one_a_user"
            ),
            models.CheckConstraint(
                condition=models.Q(rating__gte=1, rating__lte=5), name="feedback_rating_1_to_5"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.rating} of 5 for event {self.seq}"


class ShareLink(models.Model):
    """A public address that replays a conversation up to one event, until it expires or is revoked.

    The token itself is shown once and kept nowhere: ``digest`` is its HMAC.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    conversation = models.ForeignKey(
        "conversations.Conversation", models.CASCADE, related_name="shares"
    )
    created_by = models.ForeignKey("accounts.User", models.CASCADE, related_name="+")
    pepper_id = models.CharField(max_length=40, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    through_seq = models.PositiveBigIntegerField(help_text="The last event that it shows.")
    view_count = models.PositiveBigIntegerField(default=0)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"link to {self.conversation_id} up to {self.through_seq}"


class ShareView(models.Model):
    """One opening of a public link: when, and from which network, never the whole address."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    share = models.ForeignKey(ShareLink, models.CASCADE, related_name="views", db_index=False)
    network = models.CharField(max_length=50, blank=True)
    viewed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["share", "-viewed_at"])]

    def __str__(self) -> str:
        return f"view from {self.network or 'somewhere'}"


class SearchText(models.Model):
    """A title (at 0) or a message's text (at its seq), with the words that searches look for."""

    organization = models.ForeignKey("accounts.Organization", models.CASCADE, db_index=False)
    conversation = models.ForeignKey(
        "conversations.Conversation", models.CASCADE, related_name="search_texts", db_index=False
    )
    seq = models.PositiveBigIntegerField()
    text = models.TextField()
    words = models.GeneratedField(
        expression=SearchVector("text", config="simple"),
        output_field=SearchVectorField(),
        db_persist=True,
    )

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "seq"], name="search_text_place")
        ]
        indexes: ClassVar = [GinIndex(fields=["words"], name="search_text_words")]

    def __str__(self) -> str:
        return f"{self.seq} of {self.conversation_id}"


class SearchProgress(models.Model):
    """How far a conversation's log and title have been taken into the search."""

    conversation = models.OneToOneField(
        "conversations.Conversation",
        models.CASCADE,
        primary_key=True,
        related_name="search_progress",
    )
    organization = models.ForeignKey("accounts.Organization", models.CASCADE, db_index=False)
    indexed_seq = models.PositiveBigIntegerField(default=0)
    indexed_title = models.CharField(max_length=200, blank=True)

    class Meta:
        verbose_name_plural = "search progress"

    def __str__(self) -> str:
        return f"{self.conversation_id} up to {self.indexed_seq}"
