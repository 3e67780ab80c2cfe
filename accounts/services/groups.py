"""Services for groups of staff permissions on the admin site."""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import Group, Permission
from django.db import transaction

from accounts.models import User
from accounts.services import audit
from accounts.services.sessions import announce_access_change


@transaction.atomic
def save_group(*, group: Group, name: str, permissions: Iterable[Permission]) -> Group:
    """Create or change a group, and write the audit log. Safe to repeat: equal values are not recorded."""
    is_new = group.pk is None
    before = {} if is_new else _describe(Group.objects.select_for_update().get(pk=group.pk))
    group.name = name
    group.save()
    group.permissions.set(permissions)
    old, new = audit.changes(before, _describe(group))
    if new:
        action = "group.created" if is_new else "group.changed"
        audit.record(action=action, subject=group, before=old, after=new)
        _announce(group)
    return group


@transaction.atomic
def delete_group(*, group: Group) -> None:
    """Delete a group: its members lose its permissions. The audit log keeps its name and permissions."""
    _announce(group)
    audit.record(action="group.deleted", subject=group, before=_describe(group))
    group.delete()


def _describe(group: Group) -> dict[str, Any]:
    codenames = group.permissions.values_list("content_type__app_label", "codename")
    return {
        "name": group.name,
        "permissions": sorted(f"{app}.{codename}" for app, codename in codenames),
    }


def _announce(group: Group) -> None:
    for user_id in User.objects.filter(groups=group).values_list("pk", flat=True):
        announce_access_change(user_id=user_id)
