"""Factories of billing rows for tests that only need the rows to exist."""

from datetime import timedelta
from uuid import uuid4

import factory
from django.utils import timezone

from billing.models import ConversationUsage, GatewayToken, ModelAccess, ModelCall
from tests.factories.accounts import UserFactory


class _RowOfUser(factory.django.DjangoModelFactory):
    class Meta:
        abstract = True

    user = factory.SubFactory(UserFactory)
    organization = factory.LazyAttribute(lambda row: row.user.personal_organization)


class ModelAccessFactory(_RowOfUser):
    """The model access of a user, with a key."""

    class Meta:
        model = ModelAccess
        skip_postgeneration_save = True

    base_url = "https://models.example.com/v1"
    model = "some-model"

    @factory.post_generation
    def key(access, create, extracted):  # noqa: N805 - factory_boy passes the row
        access.set_api_key(extracted or "upstream-canary")
        access.save()


class GatewayTokenFactory(_RowOfUser):
    """A gateway token whose secret is unknown, so it authenticates no request."""

    class Meta:
        model = GatewayToken

    conversation_id = factory.LazyFunction(uuid4)
    token_id = factory.Sequence("token{}".format)
    digest = "digest-canary"
    pepper_id = "p1"
    expires_at = factory.LazyFunction(lambda: timezone.now() + timedelta(hours=1))


class ModelCallFactory(_RowOfUser):
    """An answered call of a model."""

    class Meta:
        model = ModelCall

    conversation_id = factory.LazyFunction(uuid4)
    model = "some-model"
    upstream = "demo"
    outcome = "answered"
    status = 200


class ConversationUsageFactory(factory.django.DjangoModelFactory):
    """The summed usage of a conversation."""

    class Meta:
        model = ConversationUsage

    conversation_id = factory.LazyFunction(uuid4)
    organization = factory.LazyAttribute(lambda row: UserFactory().personal_organization)
