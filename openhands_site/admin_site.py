"""The admin site: Django's admin site, which also requires a second factor if ``STAFF_SECOND_FACTOR`` is set."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode

from lib import nodes
from lib.disk import data_disk


class SecondFactorAdminConfig(AdminConfig):
    """The configuration of Django's admin app with ``SecondFactorAdminSite`` as its site."""

    default_site = "openhands_site.admin_site.SecondFactorAdminSite"


class SecondFactorAdminSite(AdminSite):
    """An admin site that redirects staff whose session lacks a second factor to the page that asks for the factor."""

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
            response: HttpResponse = inner(request, *args, **kwargs)
            return response

        return update_wrapper(guarded, inner)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Render the first page of the admin site, with warnings about the disk and the limit of open files."""
        from accounts.permissions import may_operate

        warnings = operating_warnings() if may_operate(request.user, "nodes.view") else []
        return super().index(request, (extra_context or {}) | {"operating_warnings": warnings})


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
