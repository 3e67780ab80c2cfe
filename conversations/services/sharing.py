"""Sharing of conversations with their organization: who reads, who steers, and whose secrets and model the run gets."""

from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from accounts.models import User
from accounts.services import audit, custom_secrets, provider_tokens, user_settings
from billing import services as billing
from conversations import queue
from conversations.models import (
    OPEN_MESSAGES,
    Conversation,
    OutgoingMessage,
    Sandbox,
    StartTask,
)
from conversations.services.keys import revoke_keys
from conversations.services.starts import OCCUPYING
from conversations.services.state import append_notice, change_fields
from lib.problems import Problem

Lender = Conversation.Lender
NOTICES = {
    Lender.ORGANIZATION: "From now on the agent uses only the secrets and the model that the organization lends. Its "
    "sandbox restarts with the next message, and the agent gets the conversation so far as a record.",
    Lender.CREATOR: "From now on the agent uses the secrets, the Git token, the MCP servers and the model of the "
    "conversation's creator. Its sandbox restarts with the next message, and the agent gets the conversation so far as "
    "a record.",
}


class NotYours(Problem):
    """The caller is not the creator of the conversation, and only the creator decides about its sharing."""

    status = 403
    code = "not-yours"
    sentence = (
        "Only the creator of this conversation may change its visibility and who may steer it."
    )


class InvalidSharing(Problem):
    """The requested settings contradict each other."""

    code = "invalid-sharing"


@dataclass(frozen=True, slots=True)
class Reach:
    """The things that a member who steers a conversation can make its agent use. No values, only names."""

    personal_secrets: list[str]
    git_token: str | None
    """The name of the Git host for whose repository the agent gets the creator's token, or None."""
    personal_mcp_servers: int
    has_personal_search: bool
    personal_model: str | None
    """The name of the creator's own model, whose calls the creator pays for, or None for the demo model."""
    organization_secrets: list[str]
    organization_model: str | None

    @property
    def lacks_model(self) -> bool:
        """Whether the run cannot call any model as long as only the organization lends."""
        return self.organization_model is None and self.personal_model is not None


def describe_reach(*, conversation: Conversation) -> Reach:
    """Return what members who steer reach with and without the creator's consent, for the sharing dialog."""
    place = {
        "user_id": conversation.created_by_id,
        "organization_id": conversation.organization_id,
    }
    organization_id = conversation.organization_id
    secrets = custom_secrets.secrets_for_conversation(**place)
    shared = custom_secrets.secrets_for_conversation(user_id=None, organization_id=organization_id)
    effective = user_settings.effective_settings(**place)
    personal = {n for n, by in effective.set_by.items() if by == user_settings.USER}
    provider = (conversation.repository or {}).get("provider")
    has_token = provider and provider_tokens.secret_name(**place, provider=provider)
    config = effective.values["mcp_config"] if "mcp_config" in personal else None
    own = billing.get_model_access(**place)
    lent = billing.get_model_access(organization_id=organization_id, user_id=None)
    return Reach(
        personal_secrets=sorted(n for n, row in secrets.items() if row.user_id is not None),
        git_token=str(provider) if has_token else None,
        personal_mcp_servers=sum(map(len, (config or {}).values())),
        has_personal_search="search_api_key" in personal,
        personal_model=own.model if own else None,
        organization_secrets=sorted(shared),
        organization_model=lent.model if lent else None,
    )


def check_sharing(*, visibility: str, others_may_steer: bool, lends_personal: bool) -> None:
    """Raise ``InvalidSharing`` if the settings of a new conversation contradict each other."""
    if others_may_steer and visibility != Conversation.Visibility.ORGANIZATION:
        raise InvalidSharing(
            "others_may_steer: share the conversation with the organization first (visibility: organization).",
            field="others_may_steer",
        )
    if lends_personal and not others_may_steer:
        raise InvalidSharing(
            "lends_personal: applies only to a conversation that others may steer or have steered.",
            field="lends_personal",
        )


@transaction.atomic
def set_sharing(
    *,
    conversation_id: UUID,
    by: User,
    visibility: str | None = None,
    others_may_steer: bool | None = None,
    lends_personal: bool | None = None,
) -> Conversation:
    """Change who reads and steers a conversation, and whether the creator lends personal secrets. Safe to repeat.

    None leaves a value unchanged, with two exceptions: a conversation that becomes private can no longer be steered by
    others, and the consent ``lends_personal`` ends with every change of the other two values, unless it is given again
    in the same call. A change revokes all keys to the conversation. If the lender changes, the running sandbox is
    stopped and loses its access to models and secrets at once, and the next start gives the agent the other equipment.
    Messages of members who may no longer steer are not delivered. Raise ``NotYours`` or ``InvalidSharing``.
    """
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    conversation = rows.get(pk=conversation_id)
    if conversation.created_by_id != by.pk:
        raise NotYours
    lender, others_steered = conversation.lender, conversation.others_steer
    new: dict[str, object] = {"visibility": visibility or conversation.visibility}
    is_shared = new["visibility"] == Conversation.Visibility.ORGANIZATION
    if others_may_steer is None:
        others_may_steer = conversation.others_may_steer and is_shared
    new["others_may_steer"] = others_may_steer
    is_other_circle = any(getattr(conversation, name) != value for name, value in new.items())
    if lends_personal is None:
        lends_personal = conversation.lends_personal and not is_other_circle
    new["lends_personal"] = lends_personal
    check_sharing(
        visibility=str(new["visibility"]),
        others_may_steer=others_may_steer,
        lends_personal=lends_personal and not conversation.steered_by_others,
    )
    before = change_fields(conversation, **new)
    if not before:
        return conversation
    if others_steered and not conversation.others_steer:
        _drop_messages_of_others(conversation)
    if conversation.lender != lender:
        _replace_equipment(conversation)
    revoke_keys(conversation)
    audit.record(
        action="conversation.shared",
        organization_id=conversation.organization_id,
        subject=conversation,
        before=before,
        after={name: new[name] for name in before},
    )
    return conversation


def _drop_messages_of_others(conversation: Conversation) -> None:
    """Mark the messages of other members that have not reached the agent as failed, and say so in the log."""
    statuses = (*OPEN_MESSAGES, OutgoingMessage.Status.HELD)
    rows = OutgoingMessage.objects.filter(conversation=conversation, status__in=statuses)
    reason = "The creator no longer lets others steer this conversation."
    for message in rows.exclude(posted_by_id=conversation.created_by_id).order_by("seq"):
        message.status, message.error = OutgoingMessage.Status.FAILED, reason
        message.save(update_fields=["status", "error"])
        append_notice(
            conversation,
            code="message_withdrawn",
            message=f"{reason} This message had not reached the agent and is not delivered.",
            seq=message.seq,
        )


def _replace_equipment(conversation: Conversation) -> None:
    """Take the present secrets and model from the sandbox. The next start gives it those of the other lender.

    The caller holds the row's lock.
    """
    billing.revoke_gateway_tokens(conversation_id=conversation.pk)
    sandbox = conversation.sandbox
    if sandbox is None:
        return
    # A start that is under way notices the other lender at its end (`start_tasks.finish`) and begins again.
    is_starting = StartTask.objects.filter(conversation=conversation, finished_at=None).exists()
    if sandbox.observed in OCCUPYING and not is_starting:
        # In this transaction, so that the next message requests a start and is not sent to the engine that ends.
        Sandbox.objects.filter(pk=sandbox.pk).update(
            desired=Sandbox.Desired.STOPPED, observed=Sandbox.Observed.STOPPED
        )
        queue.stop_sandbox(conversation.pk)
        change_fields(conversation, status=Conversation.Status.STOPPED)
    conversation.asked_seq = conversation.asked_in_run = None
    conversation.save(update_fields=["asked_seq", "asked_in_run"])
    if conversation.execution_status in Conversation.BUSY:
        change_fields(conversation, execution_status=Conversation.ExecutionStatus.PAUSED)
    if sandbox.lent_by or sandbox.conversation_started:
        append_notice(
            conversation,
            code="equipment_changed",
            message=NOTICES[Lender(conversation.lender)],
            lender=conversation.lender,
        )
