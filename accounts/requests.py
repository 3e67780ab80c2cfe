"""Types of requests, for what middleware and permission classes add to Django's and DRF's."""

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User, UserSession


class SessionRequest(HttpRequest):
    """A request whose session the session gate has checked, or just begun."""

    user_session: UserSession
    session_user: User | AnonymousUser
    """The user of the session, cached."""


class AuthenticatedRequest(HttpRequest):
    """A page's request behind ``login_required``."""

    user: User


class ApiRequest(Request):
    """An API request that a permission class let through; views declare it as their ``request``."""

    user: User
