"""Factories of conversations and their rows for tests that only need the rows to exist."""

import factory
from django.utils import timezone

from conversations.models import (
    Conversation,
    EgressDecision,
    EgressPolicy,
    Event,
    HostRule,
    Lease,
    OutgoingMessage,
    Sandbox,
    StartTask,
)
from tests.factories.accounts import UserFactory


class ConversationFactory(factory.django.DjangoModelFactory):
    """A conversation in its creator's personal organization."""

    class Meta:
        model = Conversation

    created_by = factory.SubFactory(UserFactory)
    organization = factory.LazyAttribute(lambda row: row.created_by.personal_organization)
    title = factory.Sequence("Conversation {}".format)
    model = "demo"


class _RowOfConversation(factory.django.DjangoModelFactory):
    class Meta:
        abstract = True

    conversation = factory.SubFactory(ConversationFactory)
    organization = factory.SelfAttribute("conversation.organization")


class EventFactory(_RowOfConversation):
    """An event with the next ``seq`` of its conversation's log."""

    class Meta:
        model = Event
        skip_postgeneration_save = True

    seq = factory.LazyAttribute(lambda row: row.conversation.last_seq + 1)
    event_id = factory.Faker("uuid4")
    kind = "MessageEvent"
    source = "agent"
    payload = '{"kind": "MessageEvent"}'

    @factory.post_generation
    def advance(event, create, extracted):  # noqa: N805 - factory_boy passes the row
        event.conversation.last_seq = event.seq
        event.conversation.save(update_fields=["last_seq"])


class OutgoingMessageFactory(_RowOfConversation):
    """A message that waits for delivery."""

    class Meta:
        model = OutgoingMessage

    seq = factory.Sequence(lambda number: number + 1)
    text = "hello"


class StartTaskFactory(_RowOfConversation):
    """A start task that is running."""

    class Meta:
        model = StartTask

    reason = "created"


class LeaseFactory(_RowOfConversation):
    """A lease that a manager holds."""

    class Meta:
        model = Lease

    owner = "manager-1"


class HostRuleFactory(_RowOfConversation):
    """A rule that allows a host."""

    class Meta:
        model = HostRule

    host = factory.Sequence("host{}.example".format)
    allowed = True


class EgressDecisionFactory(_RowOfConversation):
    """A refused connection to a host that is not listed."""

    class Meta:
        model = EgressDecision

    at = factory.LazyFunction(timezone.now)
    host = factory.Sequence("host{}.example".format)
    port = 443
    allowed = False
    reason = "not-listed"
    protocol = "connect"


class EgressPolicyFactory(factory.django.DjangoModelFactory):
    """An organization whose sandboxes reach only listed hosts."""

    class Meta:
        model = EgressPolicy

    organization = factory.LazyAttribute(lambda row: UserFactory().personal_organization)
    profile = "list"


class SandboxFactory(factory.django.DjangoModelFactory):
    """A sandbox with keys in the personal organization of a user."""

    class Meta:
        model = Sandbox

    class Params:
        user = factory.SubFactory(UserFactory)

    organization = factory.LazyAttribute(lambda row: row.user.personal_organization)
    provider = "process"

    @classmethod
    def _create(cls, model_class, *args, **fields):
        sandbox = model_class(**fields)
        sandbox.set_keys(session="session-canary", secret="secret-canary")
        sandbox.save()
        return sandbox
