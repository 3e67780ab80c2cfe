"""The life cycle of conversations: create, rename and delete."""

import hashlib
import logging
import secrets
from collections.abc import Sequence
from functools import partial
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
from conversations.services import redaction
from conversations.services.equipment import choose_confirmation
from conversations.services.messages import add_message
from conversations.services.sharing import check_sharing
from conversations.services.start_options import check_start_options
from conversations.services.start_tasks import queue_next_start
from conversations.services.state import change_fields, request_start
from lib.connections import release_connection
from lib.problems import Problem

log = logging.getLogger(__name__)
TITLE_LENGTH = 80
TITLE_MAX = 200


class IdempotencyConflict(Problem):
    """An ``Idempotency-Key`` was sent again, with a different request body."""

    status = 409
    code = "idempotency-conflict"
    sentence = "This Idempotency-Key was already used with a different request body. Use a new key."


class IdTaken(Problem):
    """A conversation with the requested id already exists. It may belong to another user."""

    status = 409
    code = "id-taken"
    sentence = "A conversation with this id already exists. Choose another id."


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
    others_may_steer: bool = False,
    lends_personal: bool = False,
    confirmation_policy: str | None = None,
    security_analyzer: str | None = None,
    trigger: str = Conversation.Trigger.GUI,
    wire_version: str = Conversation.WireVersion.V1,
    parent: Conversation | None = None,
    tags: Sequence[str] = (),
    idempotency_key: str | None = None,
    conversation_id: UUID | None = None,
    images: Sequence[str] = (),
    start_options: dict[str, Any] | None = None,
) -> Conversation:
    """Create a conversation, post its first message if there is one, and request a start of its sandbox.

    With ``idempotency_key``, a repeat by the same user with the same content returns the first conversation; with
    different content it raises ``IdempotencyConflict``. Without a confirmation policy or an analyzer, the user's
    settings apply. Values that the organization enforces override arguments and settings. ``lends_personal`` is the
    user's consent (see ``Conversation.lender``). ``start_options`` is a value of ``collect_start_options``. Everything
    happens in one transaction. Raise ``IdTaken``, ``InvalidSharing`` if the sharing contradicts itself,
    ``UnsendableText`` if the message cannot be stored, and ``EnforcedSetting`` if the options exceed a limit of the
    organization.
    """
    organization = organization or user.personal_organization
    check_sharing(
        visibility=visibility, others_may_steer=others_may_steer, lends_personal=lends_personal
    )
    # A digest of this list is stored. If its items or their order change, repeats of older requests fail.
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
    if others_may_steer:
        content.append({"others_may_steer": True, "lends_personal": lends_personal})
    digest = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
    with transaction.atomic():
        if idempotency_key is not None and (
            earlier := _find_repeated(user, idempotency_key, digest)
        ):
            return earlier
        if conversation_id and Conversation.objects.filter(pk=conversation_id).exists():
            raise IdTaken
        effective = user_settings.effective_settings(
            user_id=user.pk, organization_id=organization.pk
        )
        # The whole message, because a title may contain only the beginning of a secret.
        hide = partial(redaction.hide_in_text, user_ids=[user.pk], organization_id=organization.pk)
        title = hide(title) if title else make_title(hide(message or ""))
        title = title[:TITLE_MAX]
        check_start_options(effective, start_options)
        policy, analyzer = choose_confirmation(
            effective, policy=confirmation_policy, analyzer=security_analyzer
        )
        conversation = Conversation(
            id=conversation_id or uuid7(),
            organization=organization,
            created_by=user,
            title=title,
            visibility=visibility,
            others_may_steer=others_may_steer,
            lends_personal=lends_personal,
            repository=repository,
            model=model or billing.get_model_name(organization_id=organization.pk, user_id=user.pk),
            confirmation_policy=policy,
            security_analyzer=analyzer,
            trigger=trigger,
            wire_version=wire_version,
            parent=parent,
            tags=sorted(tags),
            start_options=start_options,
            idempotency_key=idempotency_key,
            idempotency_digest=digest if idempotency_key is not None else "",
        )
        _save_new(conversation)
        if message is not None:
            add_message(
                conversation,
                text=message,
                message_id=message_id or str(uuid4()),
                images=images,
                by=user,
            )
        request_start(conversation, reason="a new conversation")
    return conversation


def _save_new(conversation: Conversation) -> None:
    """Insert a conversation with a sandbox and a lease, and record its creation in the audit log."""
    conversation.sandbox = create_sandbox(conversation.organization)
    conversation.save(force_insert=True)
    Lease.objects.create(conversation=conversation, organization=conversation.organization)
    audit.record(
        action="conversation.created",
        organization_id=conversation.organization_id,
        subject=conversation,
        after={
            "model": conversation.model,
            "visibility": conversation.visibility,
            "others_may_steer": conversation.others_may_steer,
            "lends_personal": conversation.lends_personal,
            "confirmation_policy": conversation.confirmation_policy,
        },
    )


def _find_repeated(user: User, idempotency_key: str, digest: str) -> Conversation | None:
    """Return the conversation that an earlier request with this key created, or None.

    Raise ``IdempotencyConflict`` if the earlier request had different content.
    """
    # Lock the user's row: two concurrent first requests with one key must wait for each other, and there is no
    # conversation yet that they could lock.
    User.objects.select_for_update().get(pk=user.pk)
    earlier = Conversation.objects.filter(created_by=user, idempotency_key=idempotency_key).first()
    if earlier is not None and earlier.idempotency_digest != digest:
        raise IdempotencyConflict
    return earlier


def create_sandbox(organization: Organization) -> Sandbox:
    """Create the database row of a sandbox, with new keys. The sandbox is not started."""
    # The keys are committed before a process uses them, so a crash cannot leave an engine whose keys are lost.
    sandbox = Sandbox(organization=organization, provider=settings.SANDBOX_PROVIDER)
    # `lib.redaction.hide_own_tokens` recognizes the keys by these prefixes.
    sandbox.set_keys(
        session=f"ose_{secrets.token_urlsafe(32)}", secret=f"osk_{secrets.token_urlsafe(32)}"
    )
    sandbox.save()
    return sandbox


def make_title(message: str | None) -> str:
    """Return the first meaningful line of a message as a title, or a default title for an empty message."""
    # Lines that begin with "!" are directives to the scripted model (`billing.gateway`), so prefer other lines.
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    first = next((line for line in lines if not line.startswith("!")), "")
    first = first or next(iter(lines), "")
    if len(first) > TITLE_LENGTH:
        first = first[: TITLE_LENGTH - 1].rsplit(" ", 1)[0].rstrip(",.;:") + "…"
    return first or "New conversation"


def find_owners(*, conversation_id: UUID) -> tuple[UUID, UUID] | None:
    """Return the ids of a conversation's organization and creator, or None if the conversation was destroyed."""
    rows = Conversation.objects.filter(pk=conversation_id)
    return rows.values_list("organization_id", "created_by_id").first()


@transaction.atomic
def rename(*, conversation_id: UUID, title: str) -> Conversation:
    """Change a conversation's title. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    title = redaction.hide_in_text(
        title,
        user_ids=[conversation.created_by_id],
        organization_id=conversation.organization_id,
    )[:TITLE_MAX]
    if change_fields(conversation, title=title):
        # Auditors read the log but not private conversations, so the log contains no titles.
        audit.record(
            action="conversation.renamed",
            organization_id=conversation.organization_id,
            subject=conversation,
        )
    return conversation


@transaction.atomic
def delete_conversation(*, conversation_id: UUID) -> None:
    """Hide a conversation from all users immediately, and queue the job that destroys it. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    if conversation.deleted_at:
        return
    Sandbox.objects.filter(conversation=conversation).update(desired=Sandbox.Desired.DESTROYED)
    # The sandbox may run until the job destroys it, so revoke its access to models now.
    billing.revoke_gateway_tokens(conversation_id=conversation_id)
    change_fields(conversation, deleted_at=timezone.now())
    queue.destroy_conversation(conversation_id)
    audit.record(
        action="conversation.deleted",
        organization_id=conversation.organization_id,
        subject=conversation,
    )


def destroy_conversation(*, conversation_id: UUID) -> None:
    """For a deleted conversation, remove its sandbox and data first, then its database rows. Safe to repeat."""
    conversation = (
        Conversation.objects.filter(pk=conversation_id)
        .exclude(deleted_at=None)
        .select_related("sandbox")
        .first()
    )
    if conversation is None:
        return
    organization_id = conversation.organization_id
    if sandbox := conversation.sandbox:
        provider = get_provider(sandbox.provider)
        release_connection()
        # A worker may have been killed after it started the sandbox and before it stored the handle.
        if handle := sandbox.handle or provider.find(sandbox.pk):
            provider.destroy(handle)
        Sandbox.objects.filter(pk=sandbox.pk).update(
            observed=Sandbox.Observed.MISSING, stopped_at=timezone.now()
        )
    with transaction.atomic():
        # Django's `delete` would load every event first. No other row refers to events, so that is not necessary.
        Event.objects.filter(conversation_id=conversation_id)._raw_delete("default")  # noqa: SLF001
        StartTask.objects.filter(conversation_id=conversation_id).delete()
        conversation.delete()
        if sandbox:
            sandbox.delete()
    queue_next_start(organization_id)
    announcing.announce(conversation_id)
