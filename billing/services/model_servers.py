"""Permission to use model servers on this machine, which users need while ``url_guard.is_by_permission`` is true.

Administrators have it. They can give it to all users for a single model server, which its port identifies. So a user
can make this server call a model server, and never another service of this machine.
"""

from collections import Counter
from typing import Any

from django.db import transaction

from accounts.models import User
from accounts.services import audit
from billing.models import AllowedModelServer, ModelAccess
from lib import url_guard

PERMISSION = "billing.add_allowedmodelserver"
"""The Django permission of staff users who manage the model servers on this machine. Administrators have it."""


def may_manage_servers(user: Any) -> bool:
    """Return whether a user may look for model servers on this machine, use them, and allow them for all users."""
    return bool(user.is_authenticated and user.is_active and user.is_staff) and bool(
        user.has_perm(PERMISSION)
    )


def list_allowed_servers() -> list[AllowedModelServer]:
    """Return the model servers that all users may use, by their ports. Runs one database query."""
    return list(AllowedModelServer.objects.order_by("port"))


@transaction.atomic
def allow_model_server(*, port: int, name: str, by: User) -> AllowedModelServer:
    """Let all users use the model server at a port of this machine. Safe to repeat."""
    server, is_new = AllowedModelServer.objects.get_or_create(
        port=port, defaults={"name": name, "allowed_by": by}
    )
    if is_new:
        audit.record(
            action="model_server.allowed",
            subject=server,
            after={"port": port, "name": name},
        )
    return server


@transaction.atomic
def disallow_model_server(*, port: int) -> None:
    """Take the permission for the model server at a port back. The next call is refused. Safe to repeat."""
    for server in AllowedModelServer.objects.select_for_update().filter(port=port):
        audit.record(
            action="model_server.disallowed",
            subject=server,
            before={"port": port, "name": server.name},
        )
        server.delete()


def find_reach(*, base_url: str, user: User | None) -> str | None:
    """Return the argument ``allow_private`` of the HTTP client for calls to a model server.

    It is ``url_guard.LOOPBACK`` if the server is on this machine and the permission of an administrator opens it to the
    user (or, without a user, to an organization). None means that the general rule applies. Runs no database query for
    a server elsewhere.
    """
    port = url_guard.loopback_port(base_url)
    if port is None or not url_guard.is_by_permission():
        return None
    if user is not None and may_manage_servers(user):
        return url_guard.LOOPBACK
    is_allowed = AllowedModelServer.objects.filter(port=port).exists()
    return url_guard.LOOPBACK if is_allowed else None


def may_set(user: User, base_url: str) -> bool:
    """Return whether ``save_model_access`` accepts the URL of a model server from a user."""
    try:
        url_guard.check_url(base_url, allow_private=find_reach(base_url=base_url, user=user))
    except url_guard.UnsafeUrl:
        return False
    return True


def find_reach_of(access: ModelAccess) -> str | None:
    """Return ``find_reach`` for stored model access."""
    # The user is read from the database only if it matters.
    if url_guard.loopback_port(access.base_url) is None or not url_guard.is_by_permission():
        return None
    return find_reach(base_url=access.base_url, user=access.user)


def count_local_uses() -> Counter[int]:
    """Return by port how many model settings of users and organizations name a model server on this machine."""
    urls = ModelAccess.objects.filter(base_url__regex=r"://(127\.0\.0\.1|\[::1\]|localhost)[:/]")
    ports = (url_guard.loopback_port(url) for url in urls.values_list("base_url", flat=True))
    return Counter(port for port in ports if port is not None)


def explain_missing_permission(base_url: str) -> str:
    """Return why a model server on this machine is refused and what to do, or "" if another rule refuses it."""
    port = url_guard.loopback_port(base_url)
    if port is None or not url_guard.is_by_permission():
        return ""
    return (
        f"the model server at port {port} of this machine is not open to all users. An administrator of this server "
        "can allow it under Settings, Model."
    )
