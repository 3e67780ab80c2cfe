"""The setup checklist of administrators: its steps, who sees it, and its card on the home page."""

import os
import subprocess
import threading
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts import services as accounts
from accounts.models import AuditEntry, Membership, SetupMark
from accounts.services import invitations, organizations, provider_tokens, setup_marks
from billing import services as billing
from openhands_site.doctor import latest
from openhands_site.doctor.findings import Check, Finding, failed, ok, warning
from openhands_site.doctor.latest import Report
from openhands_site.setup import lines
from openhands_site.setup.steps import build_checklist, find_open_checklist
from tests.accounts.second_factor import enrol
from tests.factories.accounts import UserFactory

pytestmark = pytest.mark.django_db
PAGE, CARD = "/settings/setup", "/settings/setup?part=card"


@pytest.fixture(autouse=True)
def _no_report(monkeypatch, settings):
    """Start without a report, at an address that only this machine can open."""
    monkeypatch.setattr(latest._Cache, "report", None)
    monkeypatch.setattr(latest._Cache, "until", 0.0)
    settings.PUBLIC_URL, settings.IS_HTTPS, settings.EMAIL_HOST = "http://127.0.0.1:1", False, ""


@pytest.fixture
def root(db):
    return accounts.create_user(
        email="root@example.com", password="correct horse battery", is_staff=True, is_superuser=True
    )


@pytest.fixture
def site(client, root):
    client.force_login(root)
    return client


def report_of(**findings: Finding) -> Report:
    checks = [
        Check(id=name.replace("_", "-"), name=name, finding=f) for name, f in findings.items()
    ]
    return Report(tuple(checks), timezone.now())


def cache(monkeypatch, report: Report) -> None:
    monkeypatch.setattr(latest._Cache, "report", report)
    monkeypatch.setattr(latest._Cache, "until", float("inf"))


def states(user, report=None) -> dict[str, bool]:
    return {step.id: step.is_done for step in build_checklist(user, report).steps}


# --- Steps -----------------------------------------------------------------------


def test_new_installation_has_every_step_open(root):
    checklist = build_checklist(root, None)

    assert states(root) == dict.fromkeys(
        ("model", "git-host", "team", "second-factor", "backup", "doctor"), False
    )
    assert not checklist.is_complete
    assert not checklist.is_only_checking
    assert all(step.reason for step in checklist.steps)


def connect_own_model(root):
    save_model(root, user=root)


def connect_lent_model(root):
    save_model(root, user=None)


def save_model(root, *, user):
    billing.save_model_access(
        organization=root.personal_organization,
        user=user,
        base_url="https://models.example.com/v1",
        model="m",
    )


def connect_github(root):
    provider_tokens.set_provider_token(
        user=root, organization=root.personal_organization, provider="github", token="ghp_x"
    )


def add_person(root):
    UserFactory()


def invite(root):
    team = organizations.create_organization(user=root, name="Team")
    return invitations.invite(organization=team, by=root, role="member")[0]


def confirm(root):
    setup_marks.confirm_key_copy(user=root)


@pytest.mark.parametrize(
    ("act", "step"),
    [
        (connect_own_model, "model"),
        (connect_lent_model, "model"),
        (connect_github, "git-host"),
        (add_person, "team"),
        (invite, "team"),
        (enrol, "second-factor"),
        (confirm, "backup"),
    ],
)
def test_step_is_done_as_soon_as_the_server_is_in_that_state(root, act, step):
    act(root)

    own = {name for name, is_done in states(root).items() if is_done}
    assert own == {step}


def test_model_and_token_of_another_person_do_not_count(root, alice):
    save_model(alice, user=alice)
    connect_github(alice)

    assert not states(root)["model"]
    assert not states(root)["git-host"]


def test_revoked_invitation_and_a_service_account_are_no_team(root):
    invitation = invite(root)
    invitations.revoke_invitation(invitation=invitation)

    [step] = [step for step in build_checklist(root, None).steps if step.id == "team"]

    assert not step.is_done
    assert step.page == f"/settings/organizations/{invitation.organization_id}#invite"
    assert step.action == "Invite"


def test_account_without_a_password_needs_no_second_factor_here(root):
    root.set_unusable_password()

    assert "second-factor" not in states(root)


def test_new_key_opens_the_backup_again_and_a_removed_key_does_not(root, settings):
    confirm(root)
    before = dict(settings.ENCRYPTION_KEYS)

    settings.ENCRYPTION_KEYS = {"k2": os.urandom(32)} | before
    assert not states(root)["backup"]
    confirm(root)
    settings.ENCRYPTION_KEYS = {"k2": settings.ENCRYPTION_KEYS["k2"]}

    assert states(root)["backup"]
    [mark] = SetupMark.objects.filter(kind="keys_copied")
    assert all(len(digest) == 64 for digest in mark.details)
    assert AuditEntry.objects.filter(action="setup.keys_copied").count() == 2


def test_copy_that_one_administrator_confirmed_counts_for_all_of_them(root):
    confirm(root)
    other = UserFactory(is_staff=True, is_superuser=True)

    assert states(other)["backup"]


@pytest.mark.parametrize(
    ("url", "is_https", "title", "is_done"),
    [
        ("http://127.0.0.1:8000", False, "Give the server an address that others can open", False),
        ("http://agents.example", False, "Serve the site over HTTPS", False),
        ("https://agents.example", True, "Serve the site over HTTPS", True),
    ],
)
def test_address_is_a_step_once_others_are_served(root, settings, url, is_https, title, is_done):
    settings.PUBLIC_URL, settings.IS_HTTPS = url, is_https
    add_person(root)

    steps = {step.id: step for step in build_checklist(root, None).steps}

    assert (steps["address"].title, steps["address"].is_done) == (title, is_done)
    assert steps["mail"].is_optional
    assert not steps["mail"].is_done
    settings.EMAIL_HOST = "smtp.example.com"
    assert states(root)["mail"]


def test_warnings_of_doctor_are_listed_with_their_remedy_and_the_line_to_copy(site, monkeypatch):
    report = report_of(
        database=ok("PostgreSQL 18"),
        engine=failed("The engine is missing.", "Run `manage.py x`.", command="install_engine"),
        space=warning("90 MB <free>.", "Free some space.", page="nodes"),
        server=warning("http://x.example does not respond."),
        tmux=warning("not found."),
        https=warning("has a step of its own"),
    )
    cache(monkeypatch, report)

    text = site.get(PAGE).content.decode()

    assert "Fix 1 problem, look at 3 warnings" in text
    assert "The engine is missing." in text
    assert "Run <code>manage.py x</code>." in text
    assert "manage.py install_engine</code>" in text
    assert "90 MB &lt;free&gt;." in text
    assert "<p>http://x.example does not respond.</p>" in text
    assert "<p>Not found.</p>" in text
    assert 'href="/admin/nodes"' in text
    assert "has a step of its own" not in text
    assert "PostgreSQL 18" not in text


def test_offer_of_the_check_of_model_servers_is_a_hint_of_the_step(root):
    offer = ok("Ollama at 127.0.0.1:11434, not used.", "Use one under Settings, Model.")
    for finding, hint in (
        (offer, "Ollama at 127.0.0.1:11434, not used. Use one under Settings, Model."),
        (ok("none on this machine"), ""),
    ):
        checklist = build_checklist(root, report_of(model_servers=finding))

        [step] = [step for step in checklist.steps if step.id == "model"]
        assert step.hint == hint
        assert states(root, checklist.report)["doctor"]


def test_warning_that_ends_alone_keeps_nobody_busy(root):
    report = report_of(engine=warning("The engine is being installed.", ends_alone=True))

    assert states(root, report)["doctor"]


def test_line_for_a_terminal_runs_from_any_folder(tmp_path, settings):
    settings.DATA_DIR = tmp_path / "a folder"
    settings.DATA_DIR.mkdir()
    command = ["sh", "-c", lines.manage("help")]

    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "install_engine" in done.stdout
    assert lines.copy_keys() == ""
    (settings.DATA_DIR / "server.env").write_text("# x\nDATABASE_URL='postgresql://x'\n")
    assert lines.copy_keys() == f"cp -p '{settings.DATA_DIR}/server.env' /path/to/backup/"
    dump = lines.dump_database().replace(str(lines._pg_dump()), "echo")
    shown = subprocess.run(["sh", "-c", dump], capture_output=True, text=True, check=True).stdout
    assert shown == "-Fc -f /path/to/backup/agents.dump postgresql://x\n"


def test_dump_fails_in_a_shell_without_the_address_of_the_database(tmp_path, settings):
    settings.BASE_DIR = settings.DATA_DIR = tmp_path
    dump = lines.dump_database().replace(str(lines._pg_dump()), "echo")

    done = subprocess.run(["sh", "-c", dump], env={}, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "DATABASE_URL" in done.stderr
    assert done.stdout == ""


# --- Who sees it, and where --------------------------------------------------------


@pytest.mark.parametrize("path", [PAGE, CARD])
@pytest.mark.parametrize("method", ["get", "post"])
def test_page_does_not_exist_for_members_and_for_staff_without_all_rights(
    client, alice, path, method
):
    team = organizations.create_organization(user=alice, name="Team")
    staff = UserFactory(is_staff=True)
    Membership.objects.create(organization=team, user=staff, role="owner")
    for user in (alice, staff):
        client.force_login(user)
        assert getattr(client, method)(path, {"act": "hide"}).status_code == 404
        page = client.get("/").content.decode()
        assert "data-setup" not in page
        assert PAGE not in client.get("/settings").content.decode()
    assert not SetupMark.objects.exists()


def test_home_page_shows_the_card_without_running_a_check(site, monkeypatch):
    def run_checks(**_):
        raise AssertionError

    monkeypatch.setattr(latest, "run_checks", run_checks)

    text = site.get("/").content.decode()

    assert "Set up this server" in text
    assert "0 of 6 done" in text
    assert "The server is checking itself." in text
    assert "Set up this server" not in site.get("/?archived=1").content.decode()


def test_card_costs_the_home_page_at_most_eight_queries(root, alice, django_assert_max_num_queries):
    with django_assert_max_num_queries(8):
        find_open_checklist(root, None)
    setup_marks.set_hidden(user=root, is_hidden=True)
    with django_assert_max_num_queries(1):
        assert find_open_checklist(root, None) is None


def test_checklist_is_hidden_for_one_person_until_this_person_shows_it_again(site, monkeypatch):
    cache(monkeypatch, report_of(tmux=warning("not found.")))
    other = Client()
    other.force_login(UserFactory(is_staff=True, is_superuser=True))

    assert site.post(PAGE, {"act": "hide", "back": "home"}).headers["Location"] == "/"

    text = site.get("/").content.decode()
    assert "The checklist is hidden. You find it under Settings, Setup." in text
    assert "Set up this server" not in text
    assert site.get(CARD).content.strip() == b""
    assert "Set up this server" in other.get("/").content.decode()
    assert "Show on the home page" in site.get(PAGE).content.decode()
    site.post(PAGE, {"act": "show", "back": "home"})
    assert "Set up this server" in site.get("/").content.decode()


def test_confirmation_of_the_backup_can_be_withdrawn(site, root, monkeypatch):
    cache(monkeypatch, report_of(tmux=ok("/usr/bin/tmux")))

    site.post(PAGE, {"act": "confirm", "back": "home"})
    assert states(root)["backup"]
    assert "Confirmed by root@example.com" in site.get(PAGE).content.decode()
    site.post(PAGE, {"act": "withdraw", "back": "setup"})

    assert not states(root)["backup"]
    actions = AuditEntry.objects.filter(action__startswith="setup.keys").order_by("created_at")
    assert [entry.action for entry in actions] == ["setup.keys_copied", "setup.keys_not_copied"]


def test_complete_checklist_leaves_the_home_page_and_the_page_says_so(
    site, root, monkeypatch, settings
):
    for act in (connect_own_model, connect_github, add_person, enrol, confirm):
        act(root)
    settings.IS_HTTPS = True
    assert "Set up this server" not in site.get("/").content.decode()
    assert "data-checking" in site.get("/").content.decode()
    cache(monkeypatch, report_of(tmux=ok("/usr/bin/tmux")))

    assert "data-setup" not in site.get("/").content.decode()

    assert "This server is set up" in site.get(PAGE).content.decode()


@pytest.mark.parametrize("data", [{}, {"act": "x"}, {"act": "hide", "back": "//evil.example"}])
def test_unknown_button_changes_nothing(site, data):
    response = site.post(PAGE, data)

    assert response.headers["Location"] == PAGE
    assert not SetupMark.objects.exists()


# --- The checks of a running server ------------------------------------------------


def test_server_runs_the_checks_once_a_minute_for_all_callers(monkeypatch):
    runs, may_end = [], threading.Event()

    def run_checks(*, in_server):
        runs.append(in_server)
        may_end.wait(5)
        yield Check("tmux", "tmux", ok("/usr/bin/tmux"))

    monkeypatch.setattr(latest, "run_checks", run_checks)
    reports = []
    callers = [
        threading.Thread(target=lambda: reports.append(latest.current_report())) for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    may_end.set()
    for caller in callers:
        caller.join()

    assert runs == [True]
    assert len({id(report) for report in reports}) == 1
    assert latest.cached_report() is reports[0]
    assert timezone.now() - reports[0].finished_at < timedelta(minutes=1)
    latest.forget_report()
    assert latest.cached_report() is None


def test_server_runs_the_checks_of_doctor_and_leaves_its_environment_alone(settings):
    environment = dict(os.environ)

    report = latest.current_report()

    assert dict(os.environ) == environment
    found = {check.id: check.state for check in report.checks}
    assert {"python", "settings"}.isdisjoint(found)
    assert found["database"] == found["migrations"] == found["keys"] == "ok"
    assert report.find("sandbox").state == "warning"
