"""The index of the full-text search: titles and messages of conversations."""

from typing import ClassVar

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.db import models


class SearchText(models.Model):
    """The searchable text of one message, or of a conversation's title. For a title, ``seq`` is 0."""

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
    """The progress of the search index in one conversation: the last indexed ``seq``, and the indexed title."""

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
