"""Every write on the admin site is in the audit log, with the person, the subject and the change."""

import json

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.core import mail
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from accounts import services
from accounts.models import (
    ApiKey,
    AuditEntry,
    IdentityProvider,
    Membership,
    Organization,
    SecondFactor,
    User,
    UserSession,
)
from accounts.models.audit import SITE
from accounts.services import identity_providers, organizations
from tests.factories.accounts import UserFactory

PASSWORD = "correct horse battery"
PROVIDER = {
    "slug": "acme", "name": "Acme", "kind": "generic", "issuer": "https://id.example.com",
    "client_id": "server", "scopes": "openid email", "is_enabled": "on", "bearer_clients": "[]",
    "claim_rules": "[]", "audience": "", "new_client_secret": "",
}  # fmt: skip


@pytest.fixture
def root(db):
    return services.create_user(
        email="root@example.com", password=PASSWORD, is_staff=True, is_superuser=True
    )


@pytest.fixture
def desk(client, root):
    client.force_login(root)
    return client


def url(model, page, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def act(desk, model, action, *rows, **fields):
    form = {"action": action, "_selected_action": [str(row.pk) for row in rows]} | fields
    return desk.post(url(model, "changelist"), form, follow=True)


class Log:
    """The entries that were appended since the log was created."""

    def __init__(self):
        self.known = set(AuditEntry.objects.values_list("pk", flat=True))

    def read(self):
        return list(AuditEntry.objects.exclude(pk__in=self.known).order_by("created_at", "pk"))

    def only(self, root):
        [entry] = self.read()
        assert (entry.actor_kind, entry.actor_id, entry.actor_name) == (
            "person", str(root.pk), root.email,
        )  # fmt: skip
        return entry


def user_form(user, **changed):
    form = {"email": user.email, "name": user.name}
    form |= {name: "on" for name in ("is_staff", "is_superuser") if getattr(user, name)}
    return {name: value for name, value in (form | changed).items() if value is not None}


class TestUsers:
    @pytest.mark.parametrize(
        ("changed", "action", "before", "after"),
        [
            ({"is_superuser": "on"}, "user.changed", {"is_superuser": False}, {"is_superuser": True}),
            ({"is_staff": "on"}, "user.changed", {"is_staff": False}, {"is_staff": True}),
            ({"name": "A. Liddell"}, "user.changed", {"name": "Alice"}, {"name": "A. Liddell"}),
            (
                {"email": "new@example.com"}, "user.email_changed",
                {"email": "alice@example.com"}, {"email": "new@example.com"},
            ),
        ],
    )  # fmt: skip
    def test_changed_user_is_recorded_with_the_change(
        self, desk, root, alice, changed, action, before, after
    ):
        log = Log()

        response = desk.post(url(User, "change", alice.pk), user_form(alice, **changed))

        entry = log.only(root)
        assert response.status_code == 302
        assert (entry.action, entry.subject_id) == (action, str(alice.pk))
        assert (entry.before, entry.after) == (before, after)
        assert entry.chain == alice.personal_organization.pk

    def test_groups_and_permissions_are_recorded_by_name(self, desk, root, alice):
        group = Group.objects.create(name="Support")
        permission = Permission.objects.get(codename="view_user")
        log = Log()

        form = user_form(alice, groups=[group.pk], user_permissions=[permission.pk])
        desk.post(url(User, "change", alice.pk), form)

        entry = log.only(root)
        assert entry.before == {"groups": [], "user_permissions": []}
        assert entry.after == {"groups": ["Support"], "user_permissions": ["accounts.view_user"]}
        assert list(alice.groups.all()) == [group]
        assert list(alice.user_permissions.all()) == [permission]

    def test_save_without_a_change_is_not_recorded(self, desk, alice):
        log = Log()

        desk.post(url(User, "change", alice.pk), user_form(alice))

        assert log.read() == []

    def test_new_user_is_recorded_with_the_creator(self, desk, root):
        log = Log()

        desk.post(url(User, "add"), {"email": "n@example.com", "name": "", "password": PASSWORD})

        assert log.only(root).action == "user.created"

    def test_last_administrator_keeps_the_right(self, desk, root):
        log = Log()

        page = desk.post(
            url(User, "change", root.pk), user_form(root, is_superuser=None), follow=True
        )

        root.refresh_from_db()
        assert root.is_superuser
        assert "last active administrator" in page.text
        assert log.read() == []

    def test_change_of_an_address_by_staff_is_mailed_to_the_old_and_new_address(
        self, desk, alice, settings, django_capture_on_commit_callbacks
    ):
        settings.EMAIL_HOST = "mail.example.com"

        with django_capture_on_commit_callbacks(execute=True):
            desk.post(url(User, "change", alice.pk), user_form(alice, email="new@example.com"))

        assert sorted(m.to[0] for m in mail.outbox) == ["alice@example.com", "new@example.com"]

    def test_suspension_and_activation_are_recorded_with_the_actor(self, desk, root, alice):
        for action, name in (("suspend", "user.suspended"), ("activate", "user.activated")):
            log = Log()
            act(desk, User, action, alice)
            assert log.only(root).action == name


class TestGroups:
    def test_group_is_recorded_when_it_is_made_changed_and_deleted(self, desk, root):
        view, change = (
            Permission.objects.get(codename=name) for name in ("view_user", "change_user")
        )
        log = Log()
        desk.post(url(Group, "add"), {"name": "Support", "permissions": [view.pk]})
        made = log.only(root)
        group = Group.objects.get(name="Support")
        assert list(group.permissions.all()) == [view]

        log = Log()
        desk.post(url(Group, "change", group.pk), {"name": "Desk", "permissions": [change.pk]})
        changed = log.only(root)

        log = Log()
        desk.post(url(Group, "delete", group.pk), {"post": "yes"})
        deleted = log.only(root)

        assert [e.action for e in (made, changed, deleted)] == [
            "group.created", "group.changed", "group.deleted",
        ]  # fmt: skip
        assert made.after == {"name": "Support", "permissions": ["accounts.view_user"]}
        assert changed.before == {"name": "Support", "permissions": ["accounts.view_user"]}
        assert changed.after == {"name": "Desk", "permissions": ["accounts.change_user"]}
        assert deleted.before == {"name": "Desk", "permissions": ["accounts.change_user"]}
        assert {e.chain for e in (made, changed, deleted)} == {SITE}
        assert not Group.objects.exists()

    def test_deletion_of_selected_groups_is_recorded_for_each(self, desk):
        groups = [Group.objects.create(name=name) for name in ("A", "B")]
        log = Log()

        act(desk, Group, "delete_selected", *groups, post="yes")

        assert sorted(e.before["name"] for e in log.read()) == ["A", "B"]
        assert not Group.objects.exists()

    def test_staff_with_the_group_permission_cannot_widen_their_own_rights(self, db, client):
        staff, group = UserFactory(is_staff=True), Group.objects.create(name="Support")
        group.permissions.set(
            Permission.objects.filter(codename__in=("change_group", "view_group"))
        )
        staff.groups.add(group)
        client.force_login(staff)
        every = [str(pk) for pk in Permission.objects.values_list("pk", flat=True)]

        refused = client.post(url(Group, "change", group.pk), {"name": "S", "permissions": every})

        assert refused.status_code == 403
        assert group.permissions.count() == 2


class TestIdentityProviders:
    def test_new_provider_is_recorded_without_its_secret(self, desk, root):
        rules = [{"claim": "groups", "value": "admins", "staff": True}]
        log = Log()

        form = PROVIDER | {"claim_rules": json.dumps(rules), "new_client_secret": "canary"}
        assert desk.post(url(IdentityProvider, "add"), form).status_code == 302

        entry = log.only(root)
        assert (entry.action, entry.chain) == ("identity_provider.created", SITE)
        assert entry.after["claim_rules"] == rules
        assert entry.after["issuer"] == "https://id.example.com"
        assert entry.after["client_secret"] == "set"
        assert "canary" not in json.dumps([entry.before, entry.after])
        assert IdentityProvider.objects.get().client_secret == "canary"

    @pytest.mark.parametrize(
        ("changed", "before", "after"),
        [
            (
                {"claim_rules": '[{"claim": "g", "value": "a", "staff": true}]'},
                {"claim_rules": []},
                {"claim_rules": [{"claim": "g", "value": "a", "staff": True}]},
            ),
            ({"is_enabled": None}, {"is_enabled": True}, {"is_enabled": False}),
            (
                {"issuer": "https://evil.example.com"},
                {"issuer": "https://id.example.com"},
                {"issuer": "https://evil.example.com"},
            ),
            ({"creates_users": "on"}, {"creates_users": False}, {"creates_users": True}),
            ({"bearer_clients": '["cli"]'}, {"bearer_clients": []}, {"bearer_clients": ["cli"]}),
            ({"new_client_secret": "canary"}, {"client_secret": "set"}, {"client_secret": "set"}),
        ],
    )
    def test_changed_provider_is_recorded(self, desk, root, changed, before, after):
        desk.post(url(IdentityProvider, "add"), PROVIDER | {"new_client_secret": "old"})
        provider = IdentityProvider.objects.get()
        log = Log()

        form = {k: v for k, v in (PROVIDER | changed).items() if v is not None}
        assert desk.post(url(IdentityProvider, "change", provider.pk), form).status_code == 302

        entry = log.only(root)
        assert (entry.action, entry.subject_id) == ("identity_provider.changed", str(provider.pk))
        assert (entry.before, entry.after) == (before, after)

    @pytest.mark.parametrize("by_action", [False, True])
    def test_deleted_provider_is_recorded(self, desk, root, by_action):
        desk.post(url(IdentityProvider, "add"), PROVIDER | {"new_client_secret": "canary"})
        provider = IdentityProvider.objects.get()
        log = Log()

        if by_action:
            act(desk, IdentityProvider, "delete_selected", provider, post="yes")
        else:
            desk.post(url(IdentityProvider, "delete", provider.pk), {"post": "yes"})

        entry = log.only(root)
        assert entry.action == "identity_provider.deleted"
        assert (entry.before["slug"], entry.before["client_secret"]) == ("acme", "set")
        assert not IdentityProvider.objects.exists()

    def test_provider_of_the_environment_is_recorded_as_a_change_by_the_system(self, db, settings):
        settings.OIDC_PRESETS = [
            {"slug": "oidc", "kind": "generic", "name": "S", "issuer": "https://a.example",
             "client_id": "c", "client_secret": "canary"},
        ]  # fmt: skip
        log = Log()
        Client().get("/sign-in")
        identity_providers.enabled_providers()
        settings.OIDC_PRESETS = [settings.OIDC_PRESETS[0] | {"issuer": "https://b.example"}]
        Client().get("/sign-in")

        made, changed = log.read()
        assert (made.action, made.actor_kind) == ("identity_provider.created", "system")
        assert changed.action == "identity_provider.changed"
        assert changed.before == {"issuer": "https://a.example"}
        assert "canary" not in json.dumps([made.after, changed.after])

    @pytest.mark.parametrize("rules", ['[{"claim": "\\u0000", "value": "a", "staff": true}]',
                                       '[{"claim": "\\ud800", "value": "a", "staff": true}]'])  # fmt: skip
    def test_unstorable_rule_is_an_error_of_the_form(self, desk, rules):
        page = desk.post(url(IdentityProvider, "add"), PROVIDER | {"claim_rules": rules})

        assert page.status_code == 200
        assert page.context["adminform"].errors["claim_rules"]


class TestOrganizations:
    def form(self, *rows, name="Team", initial=()):
        form = {
            "name": name,
            "memberships-TOTAL_FORMS": str(len(rows)),
            "memberships-INITIAL_FORMS": str(len(initial)),
        }
        for number, (user, role) in enumerate(rows):
            form |= {
                f"memberships-{number}-user": str(user.pk), f"memberships-{number}-role": role,
            }  # fmt: skip
        for number, row in enumerate(initial):
            form[f"memberships-{number}-id"] = str(row.pk)
            form[f"memberships-{number}-organization"] = str(row.organization_id)
        return form

    def test_new_organization_and_its_members_are_recorded(self, desk, root, alice):
        log = Log()

        desk.post(url(Organization, "add"), self.form((alice, "owner")))

        team = Organization.objects.get(name="Team")
        assert [(e.action, e.chain, e.actor_id) for e in log.read()] == [
            ("organization.created", team.pk, str(root.pk)),
            ("member.added", team.pk, str(root.pk)),
        ]
        assert team.memberships.get().user == alice

    def test_new_name_is_recorded(self, desk, root, alice):
        team = organizations.create_organization(user=alice, name="Team")
        log = Log()

        form = self.form((alice, "owner"), name="Crew", initial=team.memberships.all())
        desk.post(url(Organization, "change", team.pk), form)

        entry = log.only(root)
        assert entry.action == "organization.renamed"
        assert (entry.before, entry.after) == ({"name": "Team"}, {"name": "Crew"})

    def test_unprintable_name_is_refused_with_a_sentence(self, desk, alice):
        team = organizations.create_organization(user=alice, name="Team")
        form = self.form((alice, "owner"), name="a\x1b[31mb", initial=team.memberships.all())

        page = desk.post(url(Organization, "change", team.pk), form, follow=True)

        assert "printable characters" in page.text
        assert Organization.objects.get(pk=team.pk).name == "Team"


class TestJobs:
    @pytest.mark.parametrize(
        ("action", "status", "entry_action", "after"),
        [
            ("retry", "failed", "job.retried", "todo"),
            ("cancel", "todo", "job.cancelled", "cancelled"),
            ("abort", "todo", "job.aborted", "cancelled"),
        ],
    )
    def test_action_on_a_job_is_recorded(self, desk, root, action, status, entry_action, after):
        job = make_job(status)
        log = Log()

        act(desk, ProcrastinateJob, action, job)

        entry = log.only(root)
        assert (entry.action, entry.subject_id) == (entry_action, str(job.pk))
        assert entry.before == {"status": status}
        assert ProcrastinateJob.objects.get(pk=job.pk).status == after

    @pytest.mark.parametrize("action", ["retry", "cancel", "abort"])
    def test_staff_who_may_only_view_jobs_cannot_act(self, db, client, action):
        job = make_job("failed" if action == "retry" else "todo")
        staff = UserFactory(is_staff=True)
        staff.user_permissions.set(Permission.objects.filter(codename="view_procrastinatejob"))
        client.force_login(staff)
        log = Log()

        act(client, ProcrastinateJob, action, job)

        job = ProcrastinateJob.objects.get(pk=job.pk)
        assert job.status == ("failed" if action == "retry" else "todo")
        assert log.read() == []


def make_job(status):
    from django.db import connection
    from procrastinate.contrib.django import app

    task = app.configure_task("conversations.tasks.interrupt_agent")
    pk = task.defer(conversation_id="00000000-0000-0000-0000-000000000000")
    with connection.cursor() as cursor:  # the model of the package is read-only
        cursor.execute("UPDATE procrastinate_jobs SET status = %s WHERE id = %s", [status, pk])
    return ProcrastinateJob.objects.get(pk=pk)


# --- The guard: every registered model -----------------------------------------------------

WRITABLE = {
    User: TestUsers, Organization: TestOrganizations, IdentityProvider: TestIdentityProviders,
    Group: TestGroups,
}  # fmt: skip
"""Models that the admin site can add, change or delete, each with the tests of its audit entries."""


def make_rows(alice):
    """Return a row and the extra fields for each action of each model that has actions."""
    key, _ = services.issue_api_key(user=alice, name="cli")
    other_key, _ = services.issue_api_key(user=alice, name="other")
    factor = SecondFactor(user=alice, confirmed_at=timezone.now())
    factor.secret = "canary"
    factor.save()
    provider = IdentityProvider(slug="p", name="P", issuer="https://127.0.0.1:9", client_id="c")
    provider.save()
    browser = Client()
    browser.force_login(alice)
    session = UserSession.objects.get(user=alice)
    suspended = services.create_user(email="suspended@example.com")
    services.suspend_user(user=suspended)
    closed = organizations.create_organization(user=alice, name="Closed")
    organizations.suspend_organization(organization=closed)
    return {
        (ApiKey, "revoke"): (key, {}),
        (ApiKey, "revoke_with_children"): (other_key, {}),
        (SecondFactor, "reset"): (factor, {"reason": "lost phone"}),
        (IdentityProvider, "check_connection"): (provider, {}),
        (IdentityProvider, "delete_selected"): (provider, {"post": "yes"}),
        (UserSession, "end"): (session, {}),
        (User, "suspend"): (alice, {}),
        (User, "activate"): (suspended, {}),
        (Organization, "suspend"): (alice.personal_organization, {}),
        (Organization, "activate"): (closed, {}),
        (Group, "delete_selected"): (Group.objects.create(name="G"), {"post": "yes"}),
        (ProcrastinateJob, "retry"): (make_job("failed"), {}),
        (ProcrastinateJob, "cancel"): (make_job("todo"), {}),
        (ProcrastinateJob, "abort"): (make_job("todo"), {}),
    }


def list_actions(rf, root):
    request = rf.get("/")
    request.user = root
    return {
        (model, name)
        for model, page in admin.site._registry.items()
        for name in page.get_actions(request)
    }


def test_every_action_of_every_model_is_recorded(desk, rf, root, alice):
    cases = make_rows(alice)
    assert set(cases) == list_actions(rf, root), "add a case for the new action"

    missing = []
    for (model, action), (row, fields) in sorted(cases.items(), key=str):
        log = Log()
        act(desk, model, action, row, **fields)
        if not any(entry.actor_id == str(root.pk) for entry in log.read()):
            missing.append(f"{model.__name__}.{action}")

    assert missing == []


def test_models_that_can_be_written_have_a_test_of_their_audit_entries(rf, root):
    request = rf.get("/")
    request.user = root
    writable = {
        model
        for model, page in admin.site._registry.items()
        if page.has_add_permission(request)
        or page.has_change_permission(request)
        or page.has_delete_permission(request)
        or (page.get_inline_instances(request) and page.has_change_permission(request))
    }

    assert writable == set(WRITABLE)


def test_no_model_is_edited_in_its_list(rf, root):
    assert not [page for page in admin.site._registry.values() if page.list_editable]


def test_post_to_a_read_only_model_changes_nothing(desk, root, alice):
    """POST to the add, change and delete pages of every other model changes no row and writes no entry."""
    make_rows(alice)
    log = Log()
    for model in admin.site._registry.keys() - WRITABLE.keys():
        row, before = model._default_manager.first(), dump(model)
        pk = row.pk if row else "0"
        fields = {field.name: "1" for field in model._meta.concrete_fields}

        assert desk.post(url(model, "add"), fields).status_code == 403
        desk.post(url(model, "change", pk), fields)
        desk.post(url(model, "delete", pk), {"post": "yes"})

        assert dump(model) == before, model
    assert log.read() == []


def dump(model):
    return sorted(map(str, model._default_manager.values()))


# --- Django's own pages for passwords ---------------------------------------------------------


class TestPasswordPages:
    def test_password_page_of_the_admin_site_leads_to_the_account_page(self, desk):
        response = desk.get("/admin/password_change/")

        assert response.status_code == 302
        assert response.headers["Location"] == "/settings"
        assert 'name="current"' in desk.get("/settings").text

    @pytest.mark.parametrize(
        "path", ["/admin/password_change/", "/admin/password_change/done/"]
    )  # fmt: skip
    def test_password_page_of_the_admin_site_changes_no_password(self, desk, root, path):
        form = {"old_password": PASSWORD, "new_password1": "another long one",
                "new_password2": "another long one"}  # fmt: skip

        desk.post(path, form)

        root.refresh_from_db()
        assert root.check_password(PASSWORD)

    def test_password_page_does_not_reveal_whether_a_guess_is_right(self, desk):
        answers = {
            desk.post("/admin/password_change/", {"old_password": guess}).content
            for guess in (PASSWORD, "wrong", "")
        }
        assert len(answers) == 1

    def test_account_page_limits_guesses_records_the_change_and_ends_other_sessions(
        self, desk, root, settings
    ):
        cache.clear()
        settings.SIGN_IN_RATE = "3/m"
        other = Client()
        other.force_login(root)
        log = Log()

        changed = desk.post("/settings", {"current": PASSWORD, "new": "another long one"})

        assert changed.status_code == 302
        assert [e.action for e in log.read()] == ["user.password_changed", "sessions.ended"]
        assert other.get("/admin/").status_code == 302
        assert desk.get("/admin/").status_code == 200
        guesses = [
            desk.post("/settings", {"current": f"guess {n}", "new": "x" * 12}) for n in range(5)
        ]
        assert guesses[-1].status_code == 429
        assert "Too many attempts" in guesses[-1].text

    @pytest.mark.parametrize("path", ["/admin/password_reset/", "/admin/password_reset/done/",
                                      "/admin/reset/MQ/abc-def/", "/admin/reset/done/"])  # fmt: skip
    def test_there_is_no_reset_page_of_django(self, client, desk, path):
        assert desk.get(path).status_code == 404
        assert Client().get(path).status_code == 302  # to the sign-in page

    @pytest.mark.parametrize("path", ["1/password/", "password/"])
    def test_there_is_no_page_that_sets_a_users_password(self, desk, alice, path):
        response = desk.post(f"/admin/accounts/user/{path}", {"password1": "x", "password2": "x"})

        assert response.status_code in (302, 404)
        alice.refresh_from_db()
        assert alice.check_password(PASSWORD)


class TestOtherPages:
    def test_sign_in_page_gives_one_answer_for_unknown_users_and_wrong_passwords(self, root):
        def fail(email):
            cache.clear()
            page = Client().post("/admin/login/", {"username": email, "password": "x"})
            return page.text.replace(email, "").split("csrfmiddlewaretoken")[0]

        assert fail("root@example.com") == fail("nobody@example.com")

    @pytest.mark.parametrize(
        "next_url", ["https://evil.example", "//evil.example", "/\\evil.example"]
    )
    def test_sign_in_page_does_not_leave_the_site(self, root, next_url):
        cache.clear()
        form = {"username": root.email, "password": PASSWORD, "next": next_url}
        response = Client().post(f"/admin/login/?next={next_url}", form)

        assert response.status_code == 302
        assert "evil" not in response.headers["Location"]

    def test_sign_out_needs_post_and_ends_the_session(self, desk, root):
        assert desk.get("/admin/logout/").status_code == 405
        desk.post("/admin/logout/")
        assert UserSession.objects.get(user=root).end_reason == "signed out"

    def test_autocomplete_needs_the_permission_to_view_users(self, client, alice):
        staff = UserFactory(is_staff=True)
        staff.user_permissions.set(Permission.objects.filter(codename="view_organization"))
        client.force_login(staff)
        query = "app_label=accounts&model_name=membership&field_name=user&term=alice"

        assert client.get(f"/admin/autocomplete/?{query}").status_code == 403
        assert Client().get(f"/admin/autocomplete/?{query}").status_code == 302

    def test_autocomplete_answers_with_names_of_users_only(self, desk, alice):
        query = "app_label=accounts&model_name=membership&field_name=user&term=alice"

        assert desk.get(f"/admin/autocomplete/?{query}").json()["results"] == [
            {"id": str(alice.pk), "text": "alice@example.com"}
        ]

    @pytest.mark.parametrize(
        "field", ["organization", "user__password", "password", "id", "nonsense", ""]
    )
    def test_autocomplete_of_another_field_is_refused(self, desk, field):
        query = f"app_label=accounts&model_name=membership&field_name={field}&term="
        response = Client.get(desk, f"/admin/autocomplete/?{query}")
        assert response.status_code in (200, 403)
        if response.status_code == 200:
            assert set(response.json()["results"][0]) == {"id", "text"}
            assert field == "organization"

    def test_translations_of_the_admin_site_contain_no_data(self, desk, alice):
        page = desk.get("/admin/jsi18n/")
        assert page.status_code == 200
        assert alice.email not in page.text


def test_member_of_the_formset_is_recorded(desk, root, alice, bob):
    """The inline of memberships calls the services of organizations."""
    team = organizations.create_organization(user=alice, name="Team")
    membership = Membership.objects.create(organization=team, user=bob, role="viewer")
    rows = [team.memberships.get(user=alice), membership]
    form = {"name": "Team", "memberships-TOTAL_FORMS": "2", "memberships-INITIAL_FORMS": "2"}
    for number, (row, role) in enumerate(zip(rows, ("owner", "admin"), strict=True)):
        form |= {f"memberships-{number}-id": str(row.pk), f"memberships-{number}-role": role,
                 f"memberships-{number}-user": str(row.user_id),
                 f"memberships-{number}-organization": str(team.pk)}  # fmt: skip
    log = Log()

    desk.post(url(Organization, "change", team.pk), form)

    entry = log.only(root)
    assert (entry.action, entry.before, entry.after) == (
        "member.role_changed", {"role": "viewer"}, {"role": "admin"},
    )  # fmt: skip
