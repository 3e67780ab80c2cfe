"""Request types that declare the attributes added by middleware and permission classes."""

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User, UserSession


class SessionRequest(HttpRequest):
    """A request with a valid session, checked or just started by ``accounts.sign_in.session_gate``."""

    user_session: UserSession
    session_user: User | AnonymousUser
    """The session's user, cached for the length of the request."""


class AuthenticatedRequest(HttpRequest):
    """The request of a page behind ``login_required``."""

    user: User


class ApiRequest(Request):
    """An API request that a permission class let through; views declare it as their ``request``."""

    user: User
