"""The audit log: its entries, the chain that reveals every change, and the roles that may read it."""

import io

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.test import Client

from accounts import services
from accounts.models import AuditEntry, AuditHead, Membership, User
from accounts.models.audit import SITE
from accounts.services import audit
from accounts.services.audit import Actor, acting
from billing import services as billing
from conversations import services as conversations
from conversations.models import Conversation
from tests.conftest import key_client
from tests.factories.accounts import UserFactory
from tests.fakes.stack import figure

PASSWORD = "correct horse battery"


def list_actions(*, chain=None):
    rows = AuditEntry.objects.order_by("created_at", "pk")
    return [row.action for row in (rows.filter(chain=chain) if chain else rows)]


def latest_entry(action):
    return AuditEntry.objects.filter(action=action).latest("created_at")


def verify_chains():
    """Run the command and return ``(faults, output)``."""
    output, faults = io.StringIO(), io.StringIO()
    try:
        call_command("verify_audit_chain", stdout=output, stderr=faults)
    except CommandError:
        assert faults.getvalue()
    return faults.getvalue().splitlines(), output.getvalue()


@pytest.fixture
def home(alice):
    return alice.personal_organization.pk


@pytest.fixture
def chain(home):
    """The chain of Alice's organization with five more entries."""
    for n in range(5):
        audit.record(action="test.act", organization_id=home, after={"n": n})
    return home


def run_without_triggers(statement, *arguments):
    """Run a statement that changes rows, as a superuser of the database can."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement, arguments)
        assert cursor.rowcount > 0
        cursor.execute("SET LOCAL session_replication_role = origin")


# --- Changes that the chain reveals --------------------------------------------------


def test_unchanged_chain_has_no_fault(chain):
    assert verify_chains()[0] == []
    assert f"{chain} {AuditHead.objects.get(pk=chain).count} " in verify_chains()[1]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_auditentry SET action = 'x'",
        "DELETE FROM accounts_auditentry",
        "UPDATE accounts_audithead SET hash = ''",
        "UPDATE accounts_audithead SET count = count - 1",
        "DELETE FROM accounts_audithead",
    ],
)
def test_database_refuses_to_change_or_delete_entries(chain, statement):
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert verify_chains()[0] == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("action", "other.act"), ("actor_id", "x"), ("actor_name", "x"), ("actor_kind", "key"), ("subject_id", "x"),
        ("subject_name", "x"), ("subject_kind", "x"), ("reason", "x"), ("address", "192.0.2.1"), ("request_id", "x"),
        ("after", '{"n": 99}'), ("before", '{"n": 0}'), ("created_at", "2020-01-01T00:00:00Z"), ("hash", "0" * 64),
        ("previous", "0" * 64), ("id", "018f0000-0000-7000-8000-000000000000"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("position", [3, "last"])
def test_changed_entry_is_a_fault(chain, column, value, position):
    count = AuditHead.objects.get(pk=chain).count
    position = count if position == "last" else position
    run_without_triggers(
        f"UPDATE accounts_auditentry SET {column} = %s WHERE chain = %s AND position = %s",
        value,
        chain,
        position,
    )

    faults, _ = verify_chains()

    assert any(f"entry {position} " in fault for fault in faults)


@pytest.mark.parametrize("position", ["first", "middle", "last"])
def test_removed_entry_is_a_fault(chain, position):
    count = AuditHead.objects.get(pk=chain).count
    number = {"first": 1, "middle": 3, "last": count}[position]
    run_without_triggers(
        "DELETE FROM accounts_auditentry WHERE chain = %s AND position = %s", chain, number
    )

    faults, _ = verify_chains()

    assert faults == [f"{chain}: entries {number} to {number} are missing"] or (
        position != "last" and f"entries {number} to {number} are missing" in faults[0]
    )
    figure("audit", removed=position, found=faults)


def test_removed_last_entry_with_an_adapted_head_is_a_fault(chain):
    """The seal of the head needs the server's key, which the database does not contain."""
    count = AuditHead.objects.get(pk=chain).count
    before = AuditEntry.objects.get(chain=chain, position=count - 1).hash
    run_without_triggers(
        "DELETE FROM accounts_auditentry WHERE chain = %s AND position = %s", chain, count
    )
    run_without_triggers(
        "UPDATE accounts_audithead SET count = count - 1, hash = %s WHERE chain = %s", before, chain
    )

    assert "the seal of the head is wrong" in verify_chains()[0][0]


def test_removed_head_is_a_fault(chain):
    run_without_triggers("DELETE FROM accounts_audithead WHERE chain = %s", chain)

    assert verify_chains()[0] == [f"{chain}: the chain has entries but no head"]


def test_changed_entry_with_a_matching_hash_is_a_fault(chain):
    """The next row still has the old hash as the previous hash."""
    entry = AuditEntry.objects.get(chain=chain, position=3)
    entry.action = "other.act"
    run_without_triggers(
        "UPDATE accounts_auditentry SET action = 'other.act', hash = %s WHERE chain = %s AND position = 3",
        audit.compute_hash(entry), chain,
    )  # fmt: skip

    assert verify_chains()[0] == [
        f"{chain}: entry 4 does not contain the hash of the entry before it"
    ]


def test_rolled_back_transaction_leaves_no_entry(home):
    with transaction.atomic():
        audit.record(action="test.undone", organization_id=home)
        transaction.set_rollback(True)

    assert list_actions() == ["user.created"]
    assert verify_chains()[0] == []


@pytest.mark.django_db(transaction=True)
def test_parallel_entries_form_one_chain(alice):
    import threading

    from django.db import connections

    home = alice.personal_organization.pk
    before = AuditHead.objects.get(pk=home).count

    def act():
        for n in range(10):
            audit.record(action="test.act", organization_id=home, after={"n": n})
        connections.close_all()

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert AuditHead.objects.get(pk=home).count == before + 80
    assert verify_chains()[0] == []


@pytest.mark.parametrize(
    "value",
    [
        "\0nul",
        "\ud800",
        "x" * 10_000,
        2**70,
        1.5,
        None,
        [1, "a"],
        {"deep": {"password": "x"}},
        {3, 1},
    ],
)
def test_unusual_values_are_stored_and_verified(home, value):
    audit.record(
        action="test.act",
        organization_id=home,
        after={"value": value},
        subject_name="\0x",
        reason="\ud800",
    )

    assert verify_chains()[0] == []


@pytest.mark.parametrize(
    "name", ["password", "api_key", "sealed_token", "client_secret", "digest", "cookie"]
)
def test_secret_is_recorded_as_set_without_its_value(home, name):
    entry = audit.record(
        action="test.act", organization_id=home, after={name: "canary", "x": {name: "canary"}}
    )

    entry.refresh_from_db()
    assert entry.after == {name: "set", "x": {name: "set"}}


# --- The actor ------------------------------------------------------------------------


def test_actor_is_a_person_a_key_or_anonymous(alice, home):
    browser = Client()
    browser.force_login(alice)
    browser.post(
        "/api/v1/conversations", {"title": "One"}, content_type="application/json",
        headers={"X-Request-ID": "request-1"}, REMOTE_ADDR="192.0.2.7",
    )  # fmt: skip
    person = latest_entry("conversation.created")
    key_client(alice).post("/api/v1/conversations", {"title": "Two"}, format="json")
    key = latest_entry("conversation.created")
    Client().post("/sign-in", {"email": "nobody@example.com", "password": "x"})
    anonymous = latest_entry("sign_in.failed")

    assert (person.actor_kind, person.actor_id, person.actor_name) == (
        "person",
        str(alice.pk),
        alice.email,
    )
    assert (person.request_id, person.address) == ("request-1", "192.0.2.7")
    assert key.actor_kind == "key"
    assert key.actor_name.startswith("oh_")
    assert (anonymous.actor_kind, anonymous.subject_name, anonymous.chain) == (
        "anonymous",
        "nobody@example.com",
        SITE,
    )


def test_actor_of_a_command_is_the_operating_systems_user(db, monkeypatch):
    monkeypatch.setattr("sys.argv", ["manage.py", "create_user"])
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    call_command("create_user", email="new@example.com", stdout=io.StringIO())

    entry = latest_entry("user.created")
    assert (entry.actor_kind, entry.actor_id, entry.actor_name) == (
        "command",
        "cli:root",
        "create_user",
    )


@pytest.mark.parametrize("command", ["run_worker", "run_realtime", "procrastinate"])
def test_actor_in_a_server_process_is_the_system(home, monkeypatch, command):
    monkeypatch.setattr("sys.argv", ["manage.py", command])
    assert audit.record(action="test.act", organization_id=home).actor_kind == "system"
    with acting(lambda: Actor("service_account", id="1", name="bot", reason="ticket 5")):
        entry = audit.record(action="test.act", organization_id=home)
    assert (entry.actor_kind, entry.reason) == ("service_account", "ticket 5")


# --- The actions that are recorded ------------------------------------------------------


def test_failed_and_successful_sign_in_and_sign_out_are_recorded(alice, home):
    browser = Client()
    browser.post("/sign-in", {"email": "alice@example.com", "password": "wrong"})
    browser.post("/sign-in", {"email": "Alice@example.com", "password": PASSWORD})
    browser.post("/sign-out")

    assert list_actions(chain=home)[-3:] == ["sign_in.failed", "sign_in.succeeded", "sign_in.ended"]
    assert (
        latest_entry("sign_in.succeeded").actor_kind,
        latest_entry("sign_in.ended").actor_id,
    ) == (
        "person",
        str(alice.pk),
    )


def test_changes_of_users_and_setup_links_are_recorded(alice, home):
    services.suspend_user(user=alice)
    services.suspend_user(user=alice)
    services.activate_user(user=alice)
    path = services.create_setup_link(email="first@example.com")
    services.use_setup_link(
        token=path.removeprefix("/setup/"), email="first@example.com", password=PASSWORD
    )

    assert list_actions(chain=home) == ["user.created", "user.suspended", "user.activated"]
    assert list_actions(chain=SITE) == ["setup_link.created", "setup_link.used"]
    assert latest_entry("user.suspended").after == {"is_active": False}
    assert latest_entry("user.created").after["is_superuser"] is True


def test_changes_of_a_conversation_are_recorded_once(alice, bob, home):
    conversation = conversations.create_conversation(user=alice, title="A", idempotency_key="k")
    conversations.create_conversation(user=alice, title="A", idempotency_key="k")
    for _ in range(2):
        conversations.rename(conversation_id=conversation.pk, title="B")
        conversations.set_sharing(
            conversation_id=conversation.pk, by=conversation.created_by, visibility="organization"
        )
    Conversation.objects.filter(pk=conversation.pk).update(
        execution_status="waiting_for_confirmation", asked_seq=1, asked_in_run=1
    )
    conversations.answer_confirmation(conversation_id=conversation.pk, accept=False, reason="No.")
    for _ in range(2):
        conversations.delete_conversation(conversation_id=conversation.pk)

    assert list_actions(chain=home)[1:] == [
        "conversation.created", "conversation.renamed", "conversation.shared",
        "confirmation.rejected", "conversation.deleted",
    ]  # fmt: skip
    renamed = latest_entry("conversation.renamed")
    assert (renamed.before, renamed.after) == ({}, {})  # titles are private
    assert latest_entry("confirmation.rejected").reason == "No."
    assert latest_entry("conversation.deleted").subject_id == str(conversation.pk)


def test_changes_of_the_model_access_are_recorded_without_the_key(alice, home):
    def save(**fields):
        billing.save_model_access(
            organization=alice.personal_organization, user=alice, base_url="https://m.example/v1",
            **{"model": "m"} | fields,
        )  # fmt: skip

    save(api_key="sk-canary")
    save(model="n")
    save(model="n")
    for _ in range(2):
        billing.clear_model_access(organization_id=home, user_id=alice.pk)

    assert list_actions(chain=home)[1:] == ["model_access.saved"] * 2 + ["model_access.cleared"]
    first, second = AuditEntry.objects.filter(action="model_access.saved").order_by("position")
    assert first.after["api_key"] == "set"
    assert (second.before, second.after) == ({"model": "m"}, {"model": "n"})


# --- The roles that may read the log ----------------------------------------------------


def read_log(user, query=""):
    return key_client(user).get(f"/api/v1/audit{query}")


@pytest.mark.parametrize("role", Membership.Role.values)
def test_owner_admin_and_auditor_may_read_the_log(alice, chain, role):
    user = UserFactory()
    Membership.objects.create(organization_id=chain, user=user, role=role)
    browser = Client()
    browser.force_login(user)

    response = browser.get(f"/api/v1/audit?organization={chain}")

    if role in ("owner", "admin", "auditor"):
        assert response.status_code == 200
        assert {item["organization"] for item in response.json()["items"]} == {str(chain)}
    else:
        assert response.status_code == 403
        assert response.json()["permission"] == "audit.view"
        everything = browser.get("/api/v1/audit").json()["items"]
        assert str(chain) not in {item["organization"] for item in everything}


def test_stranger_and_owner_do_not_get_foreign_entries(chain, charlie, api):
    audit.record(action="site.act")

    assert read_log(charlie, f"?organization={chain}").status_code == 403
    strangers, owners = read_log(charlie), api.get("/api/v1/audit")
    assert (strangers.status_code, str(chain) in strangers.content.decode()) == (200, False)
    assert (owners.status_code, "site.act" in owners.content.decode()) == (200, False)
    assert Client().get("/api/v1/audit").status_code == 401


def test_key_reads_its_own_organization_only(alice, bob, chain):
    Membership.objects.filter(user=bob, organization_id=chain).update(role="admin")
    here = key_client(bob, organization=alice.personal_organization)

    organizations = {item["organization"] for item in here.get("/api/v1/audit").json()["items"]}
    assert organizations == {str(chain)}
    own = read_log(bob)
    assert (own.status_code, str(chain) in own.content.decode()) == (200, False)


def test_list_has_filters_and_pages(chain, api, alice):
    def items(query):
        return [
            (i["action"], i["position"]) for i in api.get(f"/api/v1/audit?{query}").json()["items"]
        ]

    assert {action for action, _ in items("action=test.act")} == {"test.act"}
    assert len(items("action=test.")) == 5
    assert items("action=tes") == []
    assert items(f"actor={alice.pk}&action=test.act") == []
    assert len(items("since=2000-01-01T00:00:00Z&action=test.")) == 5
    assert items("until=2000-01-01T00:00:00Z") == []
    first = api.get("/api/v1/audit?limit=2&action=test.").json()
    rest = api.get(f"/api/v1/audit?limit=50&action=test.&cursor={first['next']}").json()
    assert [i["after"]["n"] for i in first["items"] + rest["items"]] == [4, 3, 2, 1, 0]
    assert rest["next"] is None
    assert api.get("/api/v1/audit?nonsense=1").status_code == 400
    assert set(first["items"][0]) >= {
        "actor",
        "subject",
        "before",
        "after",
        "reason",
        "request_id",
        "address",
    }


def test_api_cannot_change_the_log(chain, api):
    entry = AuditEntry.objects.filter(chain=chain).first()
    for method in ("post", "put", "patch", "delete"):
        assert getattr(api, method)("/api/v1/audit").status_code == 405
        assert getattr(api, method)(f"/api/v1/audit/{entry.pk}").status_code in (404, 405)


def test_admin_pages_are_read_only(chain):
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    entry = AuditEntry.objects.filter(chain=chain).last()

    assert client.get("/admin/accounts/auditentry/").status_code == 200
    page = client.get(f"/admin/accounts/auditentry/{entry.pk}/change/")
    assert page.status_code == 200
    assert b'name="_save"' not in page.content
    assert (
        client.post(f"/admin/accounts/auditentry/{entry.pk}/change/", {"action": "x"}).status_code
        == 403
    )
    assert client.get("/admin/accounts/auditentry/add/").status_code == 403
    assert (
        client.post(f"/admin/accounts/auditentry/{entry.pk}/delete/", {"post": "yes"}).status_code
        == 403
    )
    assert User.objects.exists()
