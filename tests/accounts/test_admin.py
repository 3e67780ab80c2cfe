"""Every admin page opens, shows no secret, and never reads a large table whole."""

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
OURS = ("accounts", "billing", "conversations", "integrations")
MODELS = [model for model in admin.site._registry if model._meta.app_label in OURS]
MUST_BE_THERE = {
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
def desk(client, root):
    client.force_login(root)
    return client


@pytest.fixture
def rows(alice):
    """One row of every model, with canaries where secrets are."""
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


def address(model, page, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def secrets_of(row):
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


def test_the_models_of_the_slice_have_pages():
    assert {model._meta.model_name for model in MODELS} >= MUST_BE_THERE


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_list_and_row_open_and_show_no_secret(desk, rows, model):
    row = model.objects.first()
    assert row is not None

    pages = [
        desk.get(address(model, "changelist")),
        desk.get(address(model, "changelist"), {"q": "nothing such"}),
        desk.get(address(model, "change", row.pk)),
        desk.get(address(model, "history", row.pk)),
    ]

    assert [page.status_code for page in pages] == [200, 200, 200, 200]
    for page in pages:
        text = page.content.decode()
        assert "canary" not in text
        assert not [secret for secret in secrets_of(row) if secret in text]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_no_page_has_a_secret_column(rf, root, rows, model):
    request = rf.get("/")
    request.user = root
    page, row = admin.site._registry[model], model.objects.first()
    secret = {field.name for field in model._meta.get_fields() if is_secret(field)}

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
def test_secret_columns_are_known_as_such(model, names):
    assert {field.name for field in model._meta.concrete_fields if is_secret(field)} == names


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
@pytest.mark.parametrize(
    "query",
    [
        "q=%00",
        "q=%ED%A0%80",
        "p=99999999999999999999",
        "status__exact=%00",
        "all=",
        "o=99",
        "x=1",
        "id__exact=%00",
        "e=1",
    ],
)
def test_odd_queries_are_no_server_error(desk, rows, model, query):
    assert desk.get(f"{address(model, 'changelist')}?{query}").status_code < 500


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_staff_without_permission_see_nothing(client, rows, model):
    client.force_login(UserFactory(is_staff=True))

    assert client.get(address(model, "changelist")).status_code == 403
    assert client.get(address(model, "change", model.objects.first().pk)).status_code == 403


@pytest.mark.parametrize(
    "model",
    [m for m in MODELS if isinstance(admin.site._registry[m], ReadOnlyAdmin)],
    ids=lambda model: model._meta.model_name,
)
def test_read_only_rows_are_not_written(desk, rows, model):
    row = model.objects.first()

    assert desk.get(address(model, "add")).status_code == 403
    assert desk.post(address(model, "change", row.pk), {}).status_code == 403
    assert desk.post(address(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert model.objects.filter(pk=row.pk).exists()


class TestEventList:
    def test_reads_a_bounded_number_of_rows_and_no_payload(self, desk):
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
            page = desk.get(address(Event, "changelist"))

        ours = [q["sql"] for q in queries if "conversations_event" in q["sql"]]
        assert page.context["cl"].result_count == COUNTED_ROWS
        assert ours
        assert all("LIMIT" in sql for sql in ours)
        assert not [sql for sql in ours if "payload" in sql]

    def test_shows_one_conversation_newest_first_along_its_index(self, desk):
        first = conversations.EventFactory()
        second = conversations.EventFactory(conversation=first.conversation)
        conversations.EventFactory()

        page = desk.get(
            address(Event, "changelist"), {"conversation__id__exact": str(first.conversation_id)}
        )

        assert [event.pk for event in page.context["cl"].result_list] == [second.pk, first.pk]


class TestUsers:
    def test_new_user_has_a_personal_organization_and_a_password(self, desk):
        response = desk.post(
            address(User, "add"),
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
    def test_refusals_are_told_in_the_form(self, desk, alice, fields):
        response = desk.post(address(User, "add"), {"name": "", "password": PASSWORD} | fields)

        assert response.status_code == 200
        assert response.context["adminform"].errors

    def test_suspended_user_is_out_and_comes_back(self, desk, alice, api):
        pick = {"_selected_action": [str(alice.pk)]}

        desk.post(address(User, "changelist"), pick | {"action": "suspend"})
        assert api.get("/api/v1/users/me").status_code == 401
        desk.post(address(User, "changelist"), pick | {"action": "activate"})
        assert api.get("/api/v1/users/me").status_code == 200

    def test_last_administrator_stays(self, desk, root):
        response = desk.post(
            address(User, "changelist"),
            {"_selected_action": [str(root.pk)], "action": "suspend"},
            follow=True,
        )

        root.refresh_from_db()
        assert root.is_active
        assert "last active administrator" in response.content.decode()

    def test_staff_cannot_make_themselves_superusers_or_touch_one(self, client, root):
        staff = UserFactory(is_staff=True)
        staff.user_permissions.set(permissions("change_user", "view_user", "add_user"))
        client.force_login(staff)

        client.post(
            address(User, "change", staff.pk),
            {"email": staff.email, "name": "S", "is_superuser": "on", "is_staff": "on"},
        )
        client.post(
            address(User, "add"), {"email": "n@example.com", "password": PASSWORD, "is_staff": "on"}
        )
        refused = client.post(
            address(User, "change", root.pk), {"email": "stolen@example.com", "name": ""}
        )
        client.post(
            address(User, "changelist"), {"_selected_action": [str(root.pk)], "action": "suspend"}
        )

        staff.refresh_from_db()
        root.refresh_from_db()
        assert (staff.name, staff.is_superuser) == ("S", False)
        assert User.objects.get(email="n@example.com").is_staff is False
        assert refused.status_code == 403
        assert (root.email, root.is_active) == ("root@example.com", True)


class TestOrganizations:
    def test_suspended_organization_stops_its_keys(self, desk, alice, api):
        pick = {"_selected_action": [str(alice.personal_organization.pk)]}

        desk.post(address(Organization, "changelist"), pick | {"action": "suspend"})
        assert api.get("/api/v1/users/me").status_code == 401
        desk.post(address(Organization, "changelist"), pick | {"action": "activate"})
        assert api.get("/api/v1/users/me").status_code == 200

    def test_an_owner_must_stay(self, desk, alice):
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

        refused = desk.post(
            address(Organization, "change", organization.pk),
            form | {"memberships-0-role": "viewer"},
        )
        assert "An organization needs at least one owner." in refused.content.decode()
        taken = desk.post(
            address(Organization, "change", organization.pk), form | {"memberships-0-role": "owner"}
        )
        assert taken.status_code == 302


class TestMembers:
    """The rows of members under an organization are saved by the services."""

    @pytest.fixture
    def team(self, alice):
        return organizations.create_organization(user=alice, name="Team")

    def save(self, desk, team, rows, new=()):
        """Rows are (user, role, whether to remove); new ones (user, role)."""
        own = {row.user_id: str(row.pk) for row in team.memberships.all()}
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
                form[prefix + "id"] = own[rest[1].pk if len(rest) > 1 else user.pk]
                if rest and rest[0]:
                    form[prefix + "DELETE"] = "on"
        return desk.post(address(Organization, "change", team.pk), form, follow=True)

    def roles(self, team):
        return dict(team.memberships.values_list("user__email", "role"))

    def acts(self, team):
        entries = AuditEntry.objects.filter(chain=team.pk, action__startswith="member.")
        return sorted(entries.values_list("action", flat=True))

    def test_adding_and_changing_are_audited(self, desk, alice, charlie, team):
        self.save(desk, team, [(alice, "owner")], new=[(charlie, "viewer")])
        self.save(desk, team, [(alice, "owner"), (charlie, "admin")])

        assert self.roles(team) == {alice.email: "owner", charlie.email: "admin"}
        assert self.acts(team) == ["member.added", "member.role_changed"]

    def test_handing_over_in_one_form(self, desk, alice, charlie, team):
        Membership.objects.create(organization=team, user=charlie, role="viewer")

        self.save(desk, team, [(alice, "member"), (charlie, "owner")])

        assert self.roles(team) == {alice.email: "member", charlie.email: "owner"}

    def test_removing_revokes_the_keys(self, desk, alice, charlie, team):
        Membership.objects.create(organization=team, user=charlie, role="member")
        key, _ = services.issue_api_key(user=charlie, organization=team, name="x")

        self.save(desk, team, [(alice, "owner"), (charlie, "member", True)])

        key.refresh_from_db()
        assert key.revoked_at is not None
        assert self.roles(team) == {alice.email: "owner"}
        assert self.acts(team) == ["member.removed"]

    def test_refusals_of_the_services_are_told(self, desk, alice, charlie):
        own = alice.personal_organization

        page = self.save(desk, own, [(alice, "owner")], new=[(charlie, "member")])

        assert "personal organization" in page.content.decode()
        assert self.roles(own) == {alice.email: "owner"}

    def test_a_row_keeps_its_user(self, desk, alice, charlie, team):
        page = self.save(desk, team, [(charlie, "owner", False, alice)])

        assert "The user of a membership cannot be changed." in page.content.decode()
        assert self.roles(team) == {alice.email: "owner"}


def test_key_is_revoked_from_the_list(desk, alice, api):
    desk.post(
        address(ApiKey, "changelist"),
        {"_selected_action": [str(ApiKey.objects.get().pk)], "action": "revoke"},
    )

    assert api.get("/api/v1/users/me").status_code == 401


def test_key_is_not_revoked_by_staff_who_may_only_look(client, alice, api):
    staff = UserFactory(is_staff=True)
    staff.user_permissions.set(permissions("view_apikey"))
    client.force_login(staff)

    client.post(
        address(ApiKey, "changelist"),
        {"_selected_action": [str(ApiKey.objects.get().pk)], "action": "revoke"},
    )

    assert api.get("/api/v1/users/me").status_code == 200


class TestSignIn:
    @pytest.fixture(autouse=True)
    def clean_cache(self):
        cache.clear()

    def test_goes_by_email_in_any_case(self, client, root):
        response = client.post(
            "/admin/login/?next=/admin/", {"username": "ROOT@example.com", "password": PASSWORD}
        )

        assert (response.status_code, response.headers["Location"]) == (302, "/admin/")

    def test_attempts_are_limited(self, client, root):
        for _ in range(10):
            client.post("/admin/login/", {"username": "root@example.com", "password": "wrong"})

        response = client.post(
            "/admin/login/", {"username": "root@example.com", "password": PASSWORD}
        )

        assert response.status_code == 200
        assert "Too many attempts" in response.content.decode()

    def test_is_for_staff(self, client, alice):
        response = client.post("/admin/login/", {"username": alice.email, "password": PASSWORD})

        assert response.status_code == 200


def permissions(*names):
    from django.contrib.auth.models import Permission

    found = Permission.objects.filter(codename__in=names)
    assert len(found) == len(names)
    return found


def test_setup_link_page_has_no_way_to_its_token(desk, db):
    path = services.create_setup_link()
    page = desk.get(address(SetupLink, "change", SetupLink.objects.get().pk))

    assert path.rsplit("/", 1)[1] not in page.content.decode()
