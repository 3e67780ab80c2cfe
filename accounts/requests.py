"""Request types for type checking, with the attributes that middleware and permission classes add."""

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User, UserSession


class SessionRequest(HttpRequest):
    """A request with a valid session, which ``accounts.sign_in.browser_sessions`` has checked or just begun."""

    user_session: UserSession
    session_user: User | AnonymousUser
    """The session's user, cached for the length of the request."""


class AuthenticatedRequest(HttpRequest):
    """The request of a page behind ``login_required``."""

    user: User


class ApiRequest(Request):
    """An API request that passed the permission class. Views declare their ``request`` with this type."""

    user: User
