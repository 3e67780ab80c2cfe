"""Making conversations, naming them, ending them."""

import hashlib
import logging
import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import orjson
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import Organization, User
from accounts.services import audit, user_settings
from billing import services as billing
from conversations import announcing, queue
from conversations.models import Conversation, Event, Lease, Sandbox, StartTask
from conversations.sandboxes.provider import get_provider
from conversations.services.equipment import confirmation_for
from conversations.services.keys import end_keys
from conversations.services.messages import add_message
from conversations.services.state import change_fields, request_start
from lib.problems import Problem

log = logging.getLogger(__name__)
TITLE_LENGTH = 80


class IdempotencyConflict(Problem):
    """An ``Idempotency-Key`` comes again with another body."""

    status = 409
    code = "idempotency-conflict"
    sentence = "This Idempotency-Key was used for a request with another body. Use a new key."


class IdTaken(Problem):
    """A conversation of that id exists, whoever's it is."""

    status = 409
    code = "id-taken"
    sentence = "There is a conversation of this id already. Choose another."


def create_conversation(
    *,
    user: User,
    organization: Organization | None = None,
    message: str | None = None,
    message_id: str | None = None,
    title: str | None = None,
    repository: dict[str, Any] | None = None,
    model: str | None = None,
    visibility: str = Conversation.Visibility.PRIVATE,
    confirmation_policy: str | None = None,
    security_analyzer: str | None = None,
    trigger: str = Conversation.Trigger.GUI,
    wire_version: str = Conversation.WireVersion.V1,
    parent: Conversation | None = None,
    tags: Sequence[str] = (),
    idempotency_key: str | None = None,
    conversation_id: UUID | None = None,
    images: Sequence[str] = (),
) -> Conversation:
    """Create a conversation, post its first message if there is one, and ask for its sandbox.

    ``conversation_id`` is for clients that choose it; an id that is taken raises ``IdTaken``.

    All of it is one transaction. With ``idempotency_key``, a repeat by the same user with the same content
    returns the first conversation; with other content it raises ``IdempotencyConflict``. Without a policy or
    an analyzer the user's settings say it; what the organization enforces counts in any case.
    """
    organization = organization or user.personal_organization
    content = [
        str(organization.pk),
        message,
        title,
        repository,
        model,
        visibility,
        confirmation_policy,
        security_analyzer,
        parent.pk.hex if parent else None,
        sorted(tags),
    ]
    digest = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
    with transaction.atomic():
        if idempotency_key is not None and (earlier := _repeated(user, idempotency_key, digest)):
            return earlier
        if conversation_id and Conversation.objects.filter(pk=conversation_id).exists():
            raise IdTaken
        found = user_settings.effective_settings(user_id=user.pk, organization_id=organization.pk)
        policy, analyzer = confirmation_for(
            found, asked=confirmation_policy, analyzer=security_analyzer
        )
        conversation = Conversation.objects.create(
            id=conversation_id or uuid7(),
            organization=organization,
            created_by=user,
            title=title or title_from(message),
            visibility=visibility,
            repository=repository,
            model=model or billing.get_model_name(organization_id=organization.pk, user_id=user.pk),
            confirmation_policy=policy,
            security_analyzer=analyzer,
            trigger=trigger,
            wire_version=wire_version,
            parent=parent,
            tags=sorted(tags),
            sandbox=new_sandbox(organization),
            idempotency_key=idempotency_key,
            idempotency_digest=digest if idempotency_key is not None else "",
        )
        Lease.objects.create(conversation=conversation, organization=organization)
        if message is not None:
            add_message(
                conversation, text=message, message_id=message_id or str(uuid4()), images=images
            )
        request_start(conversation, reason="a new conversation")
        audit.record(
            action="conversation.created",
            organization_id=organization.pk,
            subject=conversation,
            after={
                "model": conversation.model,
                "visibility": visibility,
                "confirmation_policy": policy,
            },
        )
    return conversation


def _repeated(user: User, idempotency_key: str, digest: str) -> Conversation | None:
    """Return the conversation that an earlier request with this key created; raise ``IdempotencyConflict``."""
    # Lock the user's row, not a probe of the index: two first uses of a key must meet each other.
    User.objects.select_for_update().get(pk=user.pk)
    earlier = Conversation.objects.filter(created_by=user, idempotency_key=idempotency_key).first()
    if earlier is not None and earlier.idempotency_digest != digest:
        raise IdempotencyConflict
    return earlier


def new_sandbox(organization: Organization) -> Sandbox:
    """A sandbox that is wanted and not started, its keys committed before anything runs under them."""
    sandbox = Sandbox(organization=organization, provider=settings.SANDBOX_PROVIDER)
    sandbox.set_keys(session=secrets.token_urlsafe(32), secret=secrets.token_urlsafe(32))
    sandbox.save()
    return sandbox


def title_from(message: str | None) -> str:
    """A title made of a message's first line that says something."""
    lines = (line.strip() for line in (message or "").splitlines())
    first = next((line for line in lines if line and not line.startswith("!")), "")
    first = first or next(
        (line.strip() for line in (message or "").splitlines() if line.strip()), ""
    )
    if len(first) > TITLE_LENGTH:
        first = first[: TITLE_LENGTH - 1].rsplit(" ", 1)[0].rstrip(",.;:") + "…"
    return first or "New conversation"


@transaction.atomic
def rename(*, conversation_id: UUID, title: str) -> Conversation:
    """Give a conversation another title. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    if before := change_fields(conversation, title=title):
        audit.record(
            action="conversation.renamed",
            organization_id=conversation.organization_id,
            subject=conversation,
            before=before,
            after={"title": title},
        )
    return conversation


@transaction.atomic
def share(*, conversation_id: UUID, visibility: str) -> Conversation:
    """Show a conversation to its organization, or keep it to its creator again. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    if before := change_fields(conversation, visibility=visibility):
        end_keys(conversation)
        audit.record(
            action="conversation.shared",
            organization_id=conversation.organization_id,
            subject=conversation,
            before=before,
            after={"visibility": visibility},
        )
    return conversation


@transaction.atomic
def delete_conversation(*, conversation_id: UUID) -> None:
    """End a conversation: from now on it does not exist for anybody; a job removes what is left of it.

    Safe to repeat.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    if conversation.deleted_at:
        return
    Sandbox.objects.filter(conversation=conversation).update(desired=Sandbox.Desired.DESTROYED)
    billing.revoke_gateway_tokens(conversation_id=conversation_id)
    change_fields(conversation, deleted_at=timezone.now())
    queue.destroy_conversation(conversation_id)
    audit.record(
        action="conversation.deleted",
        organization_id=conversation.organization_id,
        subject=conversation,
    )


def destroy_conversation(*, conversation_id: UUID) -> None:
    """Remove a deleted conversation's sandbox with its data, then its rows. Safe to repeat."""
    conversation = (
        Conversation.objects.filter(pk=conversation_id)
        .exclude(deleted_at=None)
        .select_related("sandbox")
        .first()
    )
    if conversation is None:
        return
    if sandbox := conversation.sandbox:
        provider = get_provider(sandbox.provider)
        # A worker that was killed between starting it and noting its handle left it to be found.
        if handle := sandbox.handle or provider.find(sandbox.pk):
            provider.destroy(handle)
        Sandbox.objects.filter(pk=sandbox.pk).update(
            observed=Sandbox.Observed.MISSING, stopped_at=timezone.now()
        )
    with transaction.atomic():
        Event.objects.filter(conversation_id=conversation_id)._raw_delete("default")  # noqa: SLF001
        StartTask.objects.filter(conversation_id=conversation_id).delete()
        conversation.delete()
        if sandbox:
            sandbox.delete()
    announcing.announce(conversation_id)
