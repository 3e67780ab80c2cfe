"""The admin pages: every page opens, shows no secret and reads a bounded number of rows."""

import pytest
from django.contrib import admin
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts import services
from accounts.models import (
    ApiKey,
    AuditEntry,
    CustomSecretUse,
    Identity,
    IdentityProvider,
    Maintenance,
    Membership,
    Organization,
    OrganizationSettings,
    ProviderToken,
    SecondFactor,
    SetupLink,
    TermsAcceptance,
    User,
    UserSession,
    UserSettings,
)
from accounts.services import custom_secrets, organizations
from conversations.models import Event, LiveManager, Sandbox
from lib.admin import COUNTED_ROWS, ReadOnlyAdmin, is_secret
from tests.factories import billing, conversations
from tests.factories.accounts import UserFactory

PASSWORD = "correct horse battery"
APPS = ("accounts", "billing", "conversations", "integrations")
MODELS = [model for model in admin.site._registry if model._meta.app_label in APPS]
EXPECTED_MODELS = {
    "user",
    "organization",
    "apikey",
    "setuplink",
    "conversation",
    "event",
    "outgoingmessage",
    "sandbox",
    "starttask",
    "lease",
}


@pytest.fixture
def root(db):
    return services.create_user(
        email="root@example.com", password=PASSWORD, is_staff=True, is_superuser=True
    )


@pytest.fixture
def staff_client(client, root):
    client.force_login(root)
    return client


@pytest.fixture
def rows(alice):
    """Create a row of every model. Each secret has the value ``canary``."""
    services.issue_api_key(user=alice, name="cli")
    services.create_setup_link(email="new@example.com")
    Maintenance.objects.create()
    provider = IdentityProvider(
        slug="acme", name="Acme", issuer="https://id.example", client_id="x"
    )
    provider.client_secret = "canary"
    provider.save()
    Identity.objects.create(user=alice, provider=provider, issuer=provider.issuer, sub="s")
    TermsAcceptance.objects.create(user=alice, version="1")
    UserSession.objects.create(user=alice, expires_at=timezone.now())
    factor = SecondFactor(user=alice)
    factor.secret = "canary"
    factor.save()
    organization = alice.personal_organization
    for settings in (
        UserSettings(user=alice, organization=organization),
        OrganizationSettings(organization=organization),
    ):
        settings.secrets = {"search_api_key": "canary"}
        settings.save()
    secret = custom_secrets.create_secret(
        organization=organization, by=alice, name="SECRET", value="canary"
    )
    CustomSecretUse.objects.create(
        organization=organization, secret=secret, conversation_id=secret.pk
    )
    token = ProviderToken(user=alice, organization=organization, provider="github")
    token.token = "canary"
    token.save()
    LiveManager.objects.create(
        owner="m", capacity=1, started_at=timezone.now(), expires_at=timezone.now()
    )
    for factory in (
        conversations.EgressDecisionFactory,
        conversations.EgressPolicyFactory,
        conversations.HostRuleFactory,
        conversations.EventFactory,
        conversations.OutgoingMessageFactory,
        conversations.StartTaskFactory,
        conversations.LeaseFactory,
        conversations.SandboxFactory,
        billing.ModelAccessFactory,
        billing.GatewayTokenFactory,
        billing.ModelCallFactory,
        billing.ConversationUsageFactory,
    ):
        factory()


def admin_url(model, page, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def iter_secrets(row):
    for name in (
        "digest",
        "password",
        "sealed_session_key",
        "sealed_secret_key",
        "sealed_api_key",
        "sealed_client_secret",
        "sealed_secret",
        "sealed_secrets",
        "sealed_token",
        "sealed_value",
    ):
        if value := getattr(row, name, None):
            yield value if isinstance(value, str) else bytes(value).hex()


def test_models_of_every_app_have_pages():
    assert {model._meta.model_name for model in MODELS} >= EXPECTED_MODELS


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_list_and_change_pages_open_without_secrets(staff_client, rows, model):
    row = model.objects.first()
    assert row is not None

    pages = [
        staff_client.get(admin_url(model, "changelist")),
        staff_client.get(admin_url(model, "changelist"), {"q": "nothing such"}),
        staff_client.get(admin_url(model, "change", row.pk)),
        staff_client.get(admin_url(model, "history", row.pk)),
    ]

    assert [page.status_code for page in pages] == [200, 200, 200, 200]
    for page in pages:
        text = page.content.decode()
        assert "canary" not in text
        assert not [secret for secret in iter_secrets(row) if secret in text]


def test_pages_list_no_secret_column(rf, root, rows, subtests):
    request = rf.get("/")
    request.user = root
    for model in MODELS:
        page, row = admin.site._registry[model], model.objects.first()
        secret = {field.name for field in model._meta.get_fields() if is_secret(field)}

        with subtests.test(model._meta.model_name):
            assert not secret & set(page.get_fields(request, row))
            assert not secret & set(page.get_list_display(request))
            assert not secret & {name.lstrip("=^@") for name in page.get_search_fields(request)}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (ApiKey, {"digest", "pepper_id"}),
        (Sandbox, {"sealed_session_key", "sealed_secret_key"}),
        (User, {"password"}),
    ],
)
def test_is_secret_matches_the_secret_columns(model, names):
    assert {field.name for field in model._meta.concrete_fields if is_secret(field)} == names


def test_malformed_list_query_is_no_server_error(staff_client, rows, subtests):
    queries = (
        *("q=%00", "q=%ED%A0%80", "p=99999999999999999999", "status__exact=%00", "all=", "o=99", "x=1"),
        *("id__exact=%00", "e=1"),
    )  # fmt: skip
    for model in MODELS:
        url = admin_url(model, "changelist")

        statuses = {query: staff_client.get(f"{url}?{query}").status_code for query in queries}

        with subtests.test(model._meta.model_name):
            assert max(statuses.values()) < 500, statuses


def test_staff_without_permission_get_403(client, rows, subtests):
    client.force_login(UserFactory(is_staff=True))
    for model in MODELS:
        row = model.objects.first()

        with subtests.test(model._meta.model_name):
            assert client.get(admin_url(model, "changelist")).status_code == 403
            assert client.get(admin_url(model, "change", row.pk)).status_code == 403


@pytest.mark.parametrize(
    "model",
    [m for m in MODELS if isinstance(admin.site._registry[m], ReadOnlyAdmin)],
    ids=lambda model: model._meta.model_name,
)
def test_read_only_rows_cannot_be_added_changed_or_deleted(staff_client, rows, model):
    row = model.objects.first()

    assert staff_client.get(admin_url(model, "add")).status_code == 403
    assert staff_client.post(admin_url(model, "change", row.pk), {}).status_code == 403
    assert staff_client.post(admin_url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert model.objects.filter(pk=row.pk).exists()


class TestEventList:
    def test_page_reads_a_bounded_number_of_rows_and_no_payload(self, staff_client):
        conversation = conversations.ConversationFactory()
        Event.objects.bulk_create(
            conversations.EventFactory.build(
                conversation=conversation,
                organization=conversation.organization,
                seq=n,
                event_id=str(n),
            )
            for n in range(1, COUNTED_ROWS + 101)
        )

        with CaptureQueriesContext(
            connection,
        ) as queries:
            page = staff_client.get(admin_url(Event, "changelist"))

        statements = [q["sql"] for q in queries if "conversations_event" in q["sql"]]
        assert page.context["cl"].result_count == COUNTED_ROWS
        assert statements
        assert all("LIMIT" in sql for sql in statements)
        assert not [sql for sql in statements if "payload" in sql]

    def test_filter_by_conversation_lists_its_events_newest_first(self, staff_client):
        first = conversations.EventFactory()
        second = conversations.EventFactory(conversation=first.conversation)
        conversations.EventFactory()

        page = staff_client.get(
            admin_url(Event, "changelist"), {"conversation__id__exact": str(first.conversation_id)}
        )

        assert [event.pk for event in page.context["cl"].result_list] == [second.pk, first.pk]


class TestUsers:
    def test_new_user_has_a_personal_organization_and_a_password(self, staff_client):
        response = staff_client.post(
            admin_url(User, "add"),
            {"email": "New@example.com", "name": "New", "password": PASSWORD, "is_staff": ""},
        )

        user = User.objects.get(email="New@example.com")
        assert response.status_code == 302
        assert user.check_password(PASSWORD)
        assert user.personal_organization.memberships.get().role == Membership.Role.OWNER

    @pytest.mark.parametrize(
        "fields",
        [
            {"email": "ALICE@example.com"},
            {"email": "x"},
            {"email": "b@example.com", "password": "short"},
        ],
    )
    def test_invalid_user_is_an_error_in_the_form(self, staff_client, alice, fields):
        response = staff_client.post(
            admin_url(User, "add"), {"name": "", "password": PASSWORD} | fields
        )

        assert response.status_code == 200
        assert response.context["adminform"].errors

    def test_suspension_stops_the_users_keys_until_activation(self, staff_client, alice, api):
        pick = {"_selected_action": [str(alice.pk)]}

        staff_client.post(admin_url(User, "changelist"), pick | {"action": "suspend"})
        assert api.get("/api/v1/users/me").status_code == 401
        staff_client.post(admin_url(User, "changelist"), pick | {"action": "activate"})
        assert api.get("/api/v1/users/me").status_code == 200

    def test_last_administrator_cannot_be_suspended(self, staff_client, root):
        response = staff_client.post(
            admin_url(User, "changelist"),
            {"_selected_action": [str(root.pk)], "action": "suspend"},
            follow=True,
        )

        root.refresh_from_db()
        assert root.is_active
        assert "last active administrator" in response.content.decode()

    def test_staff_cannot_become_superuser_or_change_a_superuser(self, client, root):
        staff = UserFactory(is_staff=True)
        staff.user_permissions.set(get_permissions("change_user", "view_user", "add_user"))
        client.force_login(staff)

        client.post(
            admin_url(User, "change", staff.pk),
            {"email": staff.email, "name": "S", "is_superuser": "on", "is_staff": "on"},
        )
        client.post(
            admin_url(User, "add"),
            {"email": "n@example.com", "password": PASSWORD, "is_staff": "on"},
        )
        refused = client.post(
            admin_url(User, "change", root.pk), {"email": "stolen@example.com", "name": ""}
        )
        client.post(
            admin_url(User, "changelist"), {"_selected_action": [str(root.pk)], "action": "suspend"}
        )

        staff.refresh_from_db()
        root.refresh_from_db()
        assert (staff.name, staff.is_superuser) == ("S", False)
        assert User.objects.get(email="n@example.com").is_staff is False
        assert refused.status_code == 403
        assert (root.email, root.is_active) == ("root@example.com", True)


class TestOrganizations:
    def test_suspension_stops_the_organizations_keys_until_activation(
        self, staff_client, alice, api
    ):
        pick = {"_selected_action": [str(alice.personal_organization.pk)]}

        staff_client.post(admin_url(Organization, "changelist"), pick | {"action": "suspend"})
        assert api.get("/api/v1/users/me").status_code == 401
        staff_client.post(admin_url(Organization, "changelist"), pick | {"action": "activate"})
        assert api.get("/api/v1/users/me").status_code == 200

    def test_last_owner_cannot_lose_the_role(self, staff_client, alice):
        organization = alice.personal_organization
        membership = organization.memberships.get()
        form = {
            "name": "Renamed",
            "memberships-TOTAL_FORMS": "1",
            "memberships-INITIAL_FORMS": "1",
            "memberships-0-id": str(membership.pk),
            "memberships-0-organization": str(organization.pk),
            "memberships-0-user": str(alice.pk),
        }

        refused = staff_client.post(
            admin_url(Organization, "change", organization.pk),
            form | {"memberships-0-role": "viewer"},
        )
        assert "An organization needs at least one owner." in refused.content.decode()
        accepted = staff_client.post(
            admin_url(Organization, "change", organization.pk),
            form | {"memberships-0-role": "owner"},
        )
        assert accepted.status_code == 302


class TestMembers:
    """The rows of members on the page of an organization, which services save_members."""

    @pytest.fixture
    def team(self, alice):
        return organizations.create_organization(user=alice, name="Team")

    def save_members(self, staff_client, team, rows, new=()):
        """Submit the page of the team.

        ``rows`` holds ``(user, role[, is_deleted[, user of the stored row]])`` for members, ``new`` holds
        ``(user, role)`` for users to add.
        """
        row_ids = {row.user_id: str(row.pk) for row in team.memberships.all()}
        form = {
            "name": team.name,
            "memberships-TOTAL_FORMS": str(len(rows) + len(new)),
            "memberships-INITIAL_FORMS": str(len(rows)),
        }
        for number, (user, role, *rest) in enumerate([*rows, *new]):
            prefix = f"memberships-{number}-"
            form |= {prefix + "organization": str(team.pk), prefix + "user": str(user.pk)}
            form[prefix + "role"] = role
            if number < len(rows):
                form[prefix + "id"] = row_ids[rest[1].pk if len(rest) > 1 else user.pk]
                if rest and rest[0]:
                    form[prefix + "DELETE"] = "on"
        return staff_client.post(admin_url(Organization, "change", team.pk), form, follow=True)

    def read_roles(self, team):
        return dict(team.memberships.values_list("user__email", "role"))

    def list_actions(self, team):
        entries = AuditEntry.objects.filter(chain=team.pk, action__startswith="member.")
        return sorted(entries.values_list("action", flat=True))

    def test_added_and_changed_members_are_in_the_audit_log(
        self, staff_client, alice, charlie, team
    ):
        self.save_members(staff_client, team, [(alice, "owner")], new=[(charlie, "viewer")])
        self.save_members(staff_client, team, [(alice, "owner"), (charlie, "admin")])

        assert self.read_roles(team) == {alice.email: "owner", charlie.email: "admin"}
        assert self.list_actions(team) == ["member.added", "member.role_changed"]

    def test_ownership_moves_to_another_member_in_one_form(
        self, staff_client, alice, charlie, team
    ):
        Membership.objects.create(organization=team, user=charlie, role="viewer")

        self.save_members(staff_client, team, [(alice, "member"), (charlie, "owner")])

        assert self.read_roles(team) == {alice.email: "member", charlie.email: "owner"}

    def test_removal_revokes_the_members_keys(self, staff_client, alice, charlie, team):
        Membership.objects.create(organization=team, user=charlie, role="member")
        key, _ = services.issue_api_key(user=charlie, organization=team, name="x")

        self.save_members(staff_client, team, [(alice, "owner"), (charlie, "member", True)])

        key.refresh_from_db()
        assert key.revoked_at is not None
        assert self.read_roles(team) == {alice.email: "owner"}
        assert self.list_actions(team) == ["member.removed"]

    def test_error_of_the_service_is_shown_on_the_page(self, staff_client, alice, charlie):
        own = alice.personal_organization

        page = self.save_members(staff_client, own, [(alice, "owner")], new=[(charlie, "member")])

        assert "personal organization" in page.content.decode()
        assert self.read_roles(own) == {alice.email: "owner"}

    def test_user_of_a_membership_cannot_be_changed(self, staff_client, alice, charlie, team):
        page = self.save_members(staff_client, team, [(charlie, "owner", False, alice)])

        assert "The user of a membership cannot be changed." in page.content.decode()
        assert self.read_roles(team) == {alice.email: "owner"}


def test_revoke_action_stops_the_key(staff_client, alice, api):
    staff_client.post(
        admin_url(ApiKey, "changelist"),
        {"_selected_action": [str(ApiKey.objects.get().pk)], "action": "revoke"},
    )

    assert api.get("/api/v1/users/me").status_code == 401


def test_staff_with_view_permission_only_cannot_revoke_a_key(client, alice, api):
    staff = UserFactory(is_staff=True)
    staff.user_permissions.set(get_permissions("view_apikey"))
    client.force_login(staff)

    client.post(
        admin_url(ApiKey, "changelist"),
        {"_selected_action": [str(ApiKey.objects.get().pk)], "action": "revoke"},
    )

    assert api.get("/api/v1/users/me").status_code == 200


class TestSignIn:
    @pytest.fixture(autouse=True)
    def clean_cache(self):
        cache.clear()

    def test_email_address_matches_in_any_case(self, client, root):
        response = client.post(
            "/admin/login/?next=/admin/", {"username": "ROOT@example.com", "password": PASSWORD}
        )

        assert (response.status_code, response.headers["Location"]) == (302, "/admin/")

    def test_eleventh_attempt_is_refused_even_with_the_right_password(self, client, root):
        for _ in range(10):
            client.post("/admin/login/", {"username": "root@example.com", "password": "wrong"})

        response = client.post(
            "/admin/login/", {"username": "root@example.com", "password": PASSWORD}
        )

        assert response.status_code == 200
        assert "Too many attempts" in response.content.decode()

    def test_user_without_staff_status_cannot_sign_in(self, client, alice):
        response = client.post("/admin/login/", {"username": alice.email, "password": PASSWORD})

        assert response.status_code == 200
        assert client.get("/admin/").status_code == 302


def get_permissions(*names):
    from django.contrib.auth.models import Permission

    rows = Permission.objects.filter(codename__in=names)
    assert len(rows) == len(names)
    return rows


def test_setup_link_page_does_not_show_the_token(staff_client, db):
    path = services.create_setup_link()
    page = staff_client.get(admin_url(SetupLink, "change", SetupLink.objects.get().pk))

    assert page.status_code == 200
    assert path.rsplit("/", 1)[1] not in page.content.decode()
