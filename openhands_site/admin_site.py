"""The admin site: Django's admin site with a second factor, our own password page, and 400 instead of 500."""

import logging
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import psycopg
from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.core.exceptions import FieldDoesNotExist, FieldError, ValidationError
from django.db import (
    DataError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    transaction,
)
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import SimpleTemplateResponse
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache

from lib import nodes
from lib.disk import data_disk
from lib.problems import Problem

log = logging.getLogger(__name__)
REFUSED = (
    *(ValueError, OverflowError, RecursionError),
    *(ValidationError, FieldError, FieldDoesNotExist, DataError),
)
"""The errors of Django, Python and PostgreSQL for values that a column, filter or conversion cannot process."""
REFUSED_IN_FILTERS = (
    *(TypeError, AttributeError, LookupError),
    *(ProgrammingError, NotSupportedError, InternalError),
)
"""Further errors that are errors of the client only if the URL has a query string, which chooses the lookups."""


class UnusableValue(Problem):
    """The URL or the form of an admin page contains a value that cannot be processed."""

    status = 400
    code = "unusable-value"
    sentence = (
        "The address or the form of this page contains a value that cannot be processed, such as a date out of range, "
        "a number that is too large or a malformed pattern. Remove the filter or correct the value."
    )


class SlowFilter(Problem):
    """PostgreSQL canceled the query of a list because it took longer than ``DATABASE_STATEMENT_TIMEOUT_MS``."""

    status = 400
    code = "slow-filter"
    sentence = "This search took too long. Search by an id or an e-mail address, or add a filter."


class SecondFactorAdminConfig(AdminConfig):
    """The configuration of Django's admin app with ``SecondFactorAdminSite`` as its site."""

    default_site = "openhands_site.admin_site.SecondFactorAdminSite"


class SecondFactorAdminSite(AdminSite):
    """An admin site that redirects staff whose session lacks a second factor to the page that asks for the factor.

    Each page runs in one transaction, so an action is stored together with its audit entry or not at all.
    """

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Any:  # noqa: FBT001, FBT002 - Django's signature
        inner = super().admin_view(view, cacheable)

        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            from accounts.sign_in import (
                second_step,  # not at the top: models are not loaded when Django makes the site
            )

            if self.has_permission(request) and not second_step.allows_admin_site(request):
                has_second_factor = second_step.is_needed(request.user)
                page = "sign-in-second-factor" if has_second_factor else "second-factor"
                # Only a GET can be repeated after the redirect. Other methods return to the same page.
                target = request.get_full_path() if request.method == "GET" else request.path
                return redirect(f"{reverse(page)}?{urlencode({'next': target})}")
            return _answer(inner, request, *args, **kwargs)

        return update_wrapper(guarded, inner)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Render the first page of the admin site, with warnings about the disk and the limit of open files."""
        from accounts.permissions import may_operate

        warnings = operating_warnings() if may_operate(request.user, "nodes.view") else []
        return super().index(request, (extra_context or {}) | {"operating_warnings": warnings})

    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return _answer(super().login, request, extra_context)

    def password_change(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Redirect to the account page: Django's own page neither limits guesses nor writes the audit log."""
        return _redirect_to_account(request)

    def password_change_done(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return _redirect_to_account(request)


def operating_warnings() -> list[str]:
    """Return the warnings of all running processes, each once, or those of this process while Redis is unavailable."""
    try:
        running = nodes.list_nodes()
    except nodes.NodeListUnavailable as error:
        disk = data_disk()
        own = [disk.sentence()] if disk is not None and disk.sentence() else []
        return [str(error.detail), *own]
    hosts: dict[str, set[str]] = {}
    for node in running:
        for sentence in node.warnings:
            hosts.setdefault(sentence, set()).add(node.host)
    return [f"{', '.join(sorted(names))}: {sentence}" for sentence, names in hosts.items()]


@never_cache
def _redirect_to_account(request: HttpRequest) -> HttpResponse:
    return redirect("settings")


def _answer(
    view: Callable[..., HttpResponse], request: HttpRequest, *args: Any, **kwargs: Any
) -> HttpResponse:
    """Call a view of the admin site in a transaction, and render its response.

    Raise ``UnusableValue`` or ``SlowFilter`` instead of an error that a value in the URL or the form caused. The
    exception is logged, because an error of this server may look the same.
    """
    try:
        with transaction.atomic():
            response = view(request, *args, **kwargs)
            # Lists read some rows and facets only while they are rendered.
            return response.render() if isinstance(response, SimpleTemplateResponse) else response
    except OperationalError as error:
        if not isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise
        raise SlowFilter from error
    except REFUSED as error:
        _log(request, error)
        raise UnusableValue from error
    except REFUSED_IN_FILTERS as error:
        if not request.META.get("QUERY_STRING"):
            raise
        _log(request, error)
        raise UnusableValue from error


def _log(request: HttpRequest, error: Exception) -> None:
    level = logging.WARNING if request.method == "GET" else logging.ERROR
    log.log(level, "An admin page refused a %s request", request.method, exc_info=error)
