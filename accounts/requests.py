"""Types of requests whose user is known, for views behind ``login_required`` or ``HasPermission``."""

from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User


class AuthenticatedRequest(HttpRequest):
    """A page's request behind ``login_required``."""

    user: User


class ApiRequest(Request):
    """An API request that a permission class let through; views declare it as their ``request``."""

    user: User
