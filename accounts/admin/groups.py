"""The admin page of groups of staff permissions."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest

from accounts.admin.services import ServiceAdmin
from accounts.services import groups

admin.site.unregister(Group)  # Django's own page, which writes no audit log


@admin.register(Group)
class GroupAdmin(ServiceAdmin, DjangoGroupAdmin):
    """Groups of staff permissions. Only superusers can write them: a member could grant the group every permission."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser

    def write(self, request: HttpRequest, row: Any, form: Any, *, is_change: bool) -> Group:
        return groups.save_group(group=row, **form.cleaned_data)

    def erase(self, row: Any) -> None:
        groups.delete_group(group=row)
