"""The admin desk: Django's, and for staff with a second factor where the settings ask for one."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode


class DeskConfig(AdminConfig):
    """Django's admin with our site in the place of its own."""

    default_site = "openhands_site.desk.Desk"


class Desk(AdminSite):
    """Sends staff whose session lacks a second factor to the page that asks for it."""

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Any:  # noqa: FBT001, FBT002 - Django's signature
        inner = super().admin_view(view, cacheable)

        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            from accounts.sign_in import (
                second_step,  # models are not loaded when Django makes the site
            )

            if self.has_permission(request) and not second_step.allows_admin_site(request):
                has_one = second_step.is_needed(request.user)
                page = "sign-in-second-factor" if has_one else "second-factor"
                target = request.get_full_path() if request.method == "GET" else request.path
                return redirect(f"{reverse(page)}?{urlencode({'next': target})}")
            answer: HttpResponse = inner(request, *args, **kwargs)
            return answer

        return update_wrapper(guarded, inner)
