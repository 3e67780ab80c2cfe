"""The roles, and the permission names that each of them holds. This module reads no row."""

from django.db import models


class Role(models.TextChoices):
    """What a member may do in an organization."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    BILLING = "billing"
    AUDITOR = "auditor"
    VIEWER = "viewer"


OWN = {"sessions.view", "sessions.edit", "settings.view", "settings.edit"}
"""What everybody may do with what is theirs."""
READING = {
    "conversations.view",
    "files.view",
    "usage.view",
    "model_access.view",
    "account.view",
    "settings.view",
    "integrations.view",
}
RUNNING = READING | {
    "conversations.create",
    "conversations.steer",
    "files.edit",
    "pull_requests.create",
}
PUBLISHING = {"conversations.view", "events.publish"}
"""For programs that publish runs of agents which work elsewhere."""
WORKING = READING | {
    "events.publish",
    "conversations.create",
    "conversations.steer",
    "conversations.delete",
    "conversations.share",
    "files.edit",
    "model_access.edit",
    "integrations.edit",
    "pull_requests.create",
    "api_keys.view",
    "api_keys.edit",
    "secrets.view",
    "secrets.edit",
}
BELONGING = OWN | {
    "organization.view",
    "organization.create",
    "organization.join",
    "organization.leave",
    "members.view",
}
"""What comes with being somebody's member, in whatever role."""
ADMINISTERING = {
    "organization.edit",
    "members.edit",
    "invitations.view",
    "invitations.edit",
    "service_accounts.view",
    "service_accounts.edit",
    "organization_settings.view",
    "organization_settings.edit",
    "organization_secrets.edit",
    "audit.view",
    "usage.view_all",
}
OVERSEEING = BELONGING | {"usage.view", "usage.view_all", "account.view", "api_keys.view"}
ROLE_PERMISSIONS: dict[str, frozenset[str]] = {
    Role.OWNER: frozenset(WORKING | BELONGING | ADMINISTERING | {"organization.transfer"}),
    Role.ADMIN: frozenset(WORKING | BELONGING | ADMINISTERING),
    Role.MEMBER: frozenset(WORKING | BELONGING),
    Role.BILLING: frozenset(OVERSEEING),
    Role.AUDITOR: frozenset(OVERSEEING | {"audit.view", "service_accounts.view"}),
    Role.VIEWER: frozenset(READING | BELONGING),
}
RANKS: dict[str, int] = {
    Role.OWNER: 3,
    Role.ADMIN: 2,
    Role.MEMBER: 1,
    Role.BILLING: 1,
    Role.AUDITOR: 1,
    Role.VIEWER: 0,
}
"""Who may give and take which role: nobody one above their own."""
OPERATING: dict[str, str] = {"nodes.view": "conversations.view_lease"}
"""What concerns the installation and no organization: for staff who hold the named permission of the desk."""
PERMISSIONS = frozenset(OPERATING).union(*ROLE_PERMISSIONS.values())
PRESETS: dict[str, frozenset[str]] = {
    "read": frozenset(READING),
    "run": frozenset(RUNNING),
    "publish": frozenset(PUBLISHING),
    "ci": frozenset(
        {"account.view", "conversations.view", "conversations.create", "conversations.steer"}
        | {"files.view"}
    ),
}
"""Scopes of keys by what the key is for."""
