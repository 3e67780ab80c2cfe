"""The roles of members, and the permission names that each role includes. This module has no database queries."""

from django.db import models


class Role(models.TextChoices):
    """The role of a member in an organization."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    BILLING = "billing"
    AUDITOR = "auditor"
    VIEWER = "viewer"


OWN = {"account.edit", "sessions.view", "sessions.edit", "settings.view", "settings.edit"}
"""Permissions for the member's own account, sign-in sessions and settings."""
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
"""Permissions for programs that publish the runs of agents outside this server."""
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
"""Permissions that every member has, whatever the role."""
ADMINISTERING = {
    "conversations.administer",
    "organization.edit",
    "members.edit",
    "invitations.view",
    "invitations.edit",
    "service_accounts.view",
    "service_accounts.edit",
    "organization_settings.view",
    "organization_settings.edit",
    "organization_secrets.edit",
    "egress.edit",
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
STEERING = frozenset({"conversations.steer", "files.edit", "events.publish"})
"""Permissions to change or drive a conversation. Members have them on a colleague's conversation only if its creator
lets others steer it."""
DISPOSING = frozenset({"conversations.delete"})
"""Permissions that only the creator of a conversation and the organization's administrators have on it."""
ADMINISTER = "conversations.administer"
"""The permission to stop and delete the conversations that other members share with the organization."""
STOP = "conversations.stop"
"""The permission to stop the agent of one conversation. Roles and keys do not name it: it follows from
``conversations.steer`` and ``conversations.administer``."""
RANKS: dict[str, int] = {
    Role.OWNER: 3,
    Role.ADMIN: 2,
    Role.MEMBER: 1,
    Role.BILLING: 1,
    Role.AUDITOR: 1,
    Role.VIEWER: 0,
}
"""The rank of each role. Members can give, change and remove only roles up to the rank of their own role."""
OPERATING: dict[str, str] = {"nodes.view": "conversations.view_lease"}
"""Permissions for the whole installation: for each name, the Django permission that a staff user needs."""
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
"""Predefined sets of scopes for API keys, by the name that clients send as ``preset``."""
