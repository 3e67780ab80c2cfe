"""Factories of users and organizations. Users are created by the service that the server uses."""

from typing import Any

import factory

from accounts import services
from accounts.models import Organization, User


class UserFactory(factory.django.DjangoModelFactory):
    """A user with a personal organization."""

    class Meta:
        model = User

    email = factory.Sequence("user{}@example.com".format)
    name = factory.Sequence("User {}".format)

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **fields: Any) -> User:
        return services.create_user(**fields)


class OrganizationFactory(factory.django.DjangoModelFactory):
    """A team without members."""

    class Meta:
        model = Organization

    name = factory.Sequence("Team {}".format)
