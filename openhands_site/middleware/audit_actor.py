"""Tells the audit log whose request this is, without services ever seeing the request."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from accounts.limits import client_address
from lib.acting import Actor, acting


class AuditActor:
    """For the length of a request, its user or key is who acts."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with acting(lambda: actor_of(request)):
            return self.get_response(request)


def actor_of(request: HttpRequest) -> Actor:
    """The person, key or service account that a request was authenticated as, as far as is known by now.

    DRF puts the user and the key that it finds on Django's request too.
    """
    address = client_address(request)[:45]
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return Actor("anonymous", address=address)
    key = getattr(request, "auth", None)
    if prefix := getattr(key, "prefix", ""):
        kind = "service_account" if getattr(user, "is_service_account", False) else "key"
        return Actor(
            kind, id=str(getattr(key, "pk", "")), name=f"{prefix} of {user}"[:254], address=address
        )
    return Actor("person", id=str(user.pk), name=str(user)[:254], address=address)
