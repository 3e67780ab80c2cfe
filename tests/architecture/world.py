"""The rows and identities of the authorization matrix: a team with its objects, and seventeen callers."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import orjson
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import services
from accounts.models import ApiKey, Membership, Organization, UserSession
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import custom_secrets, invitations, organizations, service_accounts
from billing.services import issue_gateway_token
from conversations.models import Conversation
from conversations.services import create_share
from tests.factories.accounts import UserFactory
from tests.factories.billing import ConversationUsageFactory, ModelCallFactory
from tests.factories.conversations import (
    ConversationFactory,
    EgressDecisionFactory,
    EgressPolicyFactory,
    EventFactory,
    HostRuleFactory,
    SandboxFactory,
)

CANARY = "canary-of-alice"
ROLES = ("owner", "admin", "member", "billing", "auditor", "viewer")
IDENTITIES = (
    "anonymous",
    *ROLES,
    "stranger",
    "service account",
    "full key",
    "scoped key",
    "expired key",
    "revoked key",
    "suspended user",
    "removed member",
    "staff without permission",
    "gateway token of another conversation",
)
UNAUTHENTICATED = {
    "anonymous",
    "expired key",
    "revoked key",
    "suspended user",
    "gateway token of another conversation",
}
"""Identities without valid credentials for the API, which get 401."""
KEYS = {"service account", "full key", "scoped key"}
SCOPES = frozenset({"account.view", "conversations.view", "api_keys.view", "organization.view"})
"""The scopes of ``scoped key``."""
ROLE_OF = {role: role for role in ROLES} | {
    "service account": "member",
    "full key": "owner",
    "scoped key": "owner",
}


@dataclass
class World:
    """Alice's team with a shared and a private conversation. ``full key`` and ``scoped key`` are keys of Alice."""

    team: Organization
    shared: Conversation
    private: Conversation
    own: dict[str, Any]
    """The values of the parameters of paths."""
    clients: dict[str, APIClient]
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    shares: dict[Any, Any] = field(default_factory=dict)
    """The public link of each conversation."""

    def try_row(self, row: str, identity: str, conversation: Conversation | None = None) -> Any:
        """Send the request of a policy row; return the response. Changes to the database are rolled back."""
        method, _, path = row.partition(" ")
        path = self.build_path(path, conversation or self.shared)
        body = self.build_body(row)
        with transaction.atomic():
            response = self.clients[identity].generic(
                method,
                path,
                b"" if body is None else orjson.dumps(body),
                content_type="application/json",
            )
            if path.endswith("/stream-start") and response.streaming:
                response.whole = next(
                    iter(response)
                )  # the stream continues until the start has ended
            else:
                response.whole = b"".join(response) if response.streaming else response.content
            transaction.set_rollback(True)
        return response

    def build_path(self, path: str, conversation: Conversation) -> str:
        """Return the path of a row with the ids of the team's objects."""
        kind = path.removeprefix("/api/").removeprefix("v1/").partition("/")[0]
        path = path.replace("{id}", str(self.own.get(kind, conversation.pk)))
        bash = "execute_bash_command" if path.startswith("/api/bash/") else "condense"
        path = path.replace("{route}", bash)
        path = path.replace("{share_id}", str(self.shares.get(conversation.pk, uuid4())))
        for name, value in self.own.items():
            path = path.replace(f"{{{name}}}", str(value))
        if path.startswith(("/api/secrets/", "/api/keys/")):
            path += f"?organization={self.team.pk}"
        if "/settings/" in path or path.endswith(("/audit", "/egress-decisions")):
            path += f"?organization={self.team.pk}"
        if path.endswith(("/model-calls", "/usage", "/usage/totals", "/egress-policy")):
            path += f"?organization={self.team.pk}"
        if path.endswith("/permissions/explain"):
            path += f"?permission=files.view&organization={self.team.pk}"
        return path

    def build_body(self, row: str) -> Any:
        """Return a valid body for a row, because some views validate the body before the permission."""
        method = row.partition(" ")[0]
        if method not in ("POST", "PUT", "PATCH"):
            return None
        team = str(self.team.pk)
        return {
            "POST /api/v1/api-keys": {"name": "x", "organization": team},
            "POST /api/v1/app-conversations": {"title": "x"},
            "POST /api/v1/conversations": {"message": "hello", "organization": team},
            "PUT /api/v1/settings/model-access": {
                "base_url": "https://models.example.com/v1",
                "model": "m",
            },
            "PUT /api/v1/organizations/{id}/model-access": {
                "base_url": "https://models.example.com/v1",
                "model": "m",
            },
            "PUT /api/v1/conversations/{id}/events/{seq}/feedback": {"rating": 5},
            "POST /api/v1/conversations/{id}/egress/rules": {"host": "x.example", "allowed": True},
            "PUT /api/v1/egress-policy": {"profile": "list", "hosts": ["x.example"]},
            "POST /api/v1/organizations": {"name": "x"},
            "PATCH /api/v1/organizations/{id}": {"name": "x"},
            "POST /api/v1/organizations/{id}/transfer": {"user": str(self.own["user_id"])},
            "PATCH /api/v1/organizations/{id}/members/{user_id}": {"role": "billing"},
            "POST /api/v1/organizations/{id}/invitations": {"role": "member"},
            "POST /api/v1/organizations/{id}/service-accounts": {"name": "x", "role": "viewer"},
            "POST /api/v1/organizations/{id}/service-accounts/{account_id}/keys": {
                "name": "x",
                "scopes": ["account.view"],
            },
            "PATCH /api/v1/settings": {"values": {"language": "de"}},
            "PATCH /api/v1/organizations/{id}/settings": {"values": {"language": "de"}},
            "POST /api/v1/secrets": {"name": "NEW", "value": "x"},
            "PATCH /api/v1/secrets/{id}": {"description": "x"},
            "POST /api/secrets": {"name": "NEW", "value": "x"},
            "PUT /api/secrets/{name}": {"name": "OTHER"},
            "POST /api/conversations": {"initial_user_msg": "hello"},
            "PATCH /api/conversations/{id}": {"title": "x"},
            "POST /api/conversations/{id}/message": {"message": "hello"},
            "POST /api/conversations/{id}/events": {
                "action": "change_agent_state",
                "args": {"agent_state": "paused"},
            },
            "POST /api/conversations/{id}/submit-feedback": {"polarity": "positive"},
            "POST /feedback/conversation": {"rating": 5},
            "POST /api/v1/invitations/accept": {"token": self.own["token"]},
        }.get(row, {})


def build() -> World:
    """Create the rows of the matrix with the services that create them in production."""
    alice = UserFactory(email=f"{CANARY}@example.com", name=f"{CANARY} name")
    team = organizations.create_organization(user=alice, name=f"{CANARY} team")
    users = {"owner": alice}
    for name in (*ROLES[1:], "suspended user", "removed member", "target"):
        role = {"suspended user": "owner", "removed member": "owner", "target": "viewer"}
        users[name] = UserFactory()
        Membership.objects.create(organization=team, user=users[name], role=role.get(name, name))
    users["stranger"] = UserFactory()
    users["staff without permission"] = UserFactory(is_staff=True)

    tokens = {
        name: services.issue_api_key(user=alice, organization=team, name=name, scopes=scopes)
        for name, scopes in (
            ("full key", ()),
            ("scoped key", sorted(SCOPES)),
            ("expired key", ()),
            ("revoked key", ()),
        )
    }
    a_second_ago = timezone.now() - timedelta(seconds=1)
    ApiKey.objects.filter(pk=tokens["expired key"][0].pk).update(expires_at=a_second_ago)
    services.revoke_api_key(key=tokens["revoked key"][0])
    program = service_accounts.create_service_account(
        organization=team, by=alice, name="program", role="member"
    )
    tokens["service account"] = service_accounts.issue_service_account_key(
        account=program, by=alice, name="x"
    )
    headers = {name: {"Authorization": f"Bearer {token}"} for name, (_, token) in tokens.items()}
    gateway = issue_gateway_token(
        organization_id=team.pk, user_id=alice.pk, conversation_id=uuid4()
    )
    headers["gateway token of another conversation"] = {"Authorization": f"Bearer {gateway}"}
    headers["anonymous"] = {}
    clients = {name: APIClient(headers=value) for name, value in headers.items()}
    for name in IDENTITIES:
        if name not in clients:
            clients[name] = APIClient()
            clients[name].force_login(users[name])
            cookie = clients[name].cookies[settings.SESSION_COOKIE_NAME].value
            headers[name] = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={cookie}"}
    shared, private = (
        ConversationFactory(
            created_by=alice, organization=team, title=f"{CANARY} title", visibility=visibility
        )
        for visibility in ("organization", "private")
    )
    for conversation in (shared, private):
        conversation.sandbox = SandboxFactory(user=alice)
        conversation.save(update_fields=["sandbox"])
        EventFactory(
            conversation=conversation,
            kind="UserMessage",
            source="user",
            payload=f'{{"text": "{CANARY}"}}',
        )
        EventFactory(conversation=conversation, payload=f'{{"text": "{CANARY}"}}')
        HostRuleFactory(conversation=conversation, host=f"{CANARY}.example", decided_by=alice)
        EgressDecisionFactory(conversation=conversation, host=f"{CANARY}.example")
    EgressPolicyFactory(organization=team, hosts=[f"{CANARY}.example"])
    key, _ = services.issue_api_key(user=alice, organization=team, name=f"{CANARY} key")
    second_account = service_accounts.create_service_account(
        organization=team, by=alice, name=f"{CANARY} program", role="viewer"
    )
    second_account_key, _ = service_accounts.issue_service_account_key(
        account=second_account, by=alice, name="x"
    )
    secret = custom_secrets.create_secret(
        organization=team, by=alice, name="SECRET", value=CANARY, description=CANARY
    )
    invitation, link = invitations.invite(organization=team, by=alice, role="viewer", max_uses=100)
    organizations.remove_member(organization=team, by=alice, user_id=users["removed member"].pk)
    services.suspend_user(user=users["suspended user"])
    call = ModelCallFactory(
        user=alice, organization=team, conversation_id=shared.pk, model=f"{CANARY} model"
    )
    ConversationUsageFactory(conversation_id=shared.pk, organization=team, calls=1)
    session = UserSession.objects.filter(user=alice).first()
    own = {
        "api-keys": key.pk,
        "keys": key.pk,
        "conversation_id": shared.pk,
        "model-calls": call.pk,
        "name": secret.name,
        "secrets": secret.pk,
        "sandboxes": shared.sandbox_id,
        "sessions": session.pk if session else uuid4(),
        "organizations": team.pk,
        "user_id": users["target"].pk,
        "invitation_id": invitation.pk,
        "account_id": second_account.pk,
        "provider": "github",
        "seq": 1,
        "number": 1,
        "key_id": second_account_key.pk,
        "host": f"{CANARY}.example",
        "token": link.rpartition("/")[2],
    }
    expires_at = timezone.now() + timedelta(days=1)
    shares = {
        conversation.pk: create_share(user=alice, conversation=conversation, expires_at=expires_at)[
            0
        ].pk
        for conversation in (shared, private)
    }
    return World(team, shared, private, own, clients, headers, shares)


def permissions_of(identity: str) -> frozenset[str]:
    """Return the permissions of an identity in the team, which follow from its role and scopes."""
    role = ROLE_OF.get(identity)
    if role is None:
        return frozenset()
    return ROLE_PERMISSIONS[role] & SCOPES if identity == "scoped key" else ROLE_PERMISSIONS[role]
