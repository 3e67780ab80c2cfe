"""The audit log: written with the act, in a chain whose every break is found, read by auditors only."""

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


def acts(*, chain=None):
    rows = AuditEntry.objects.order_by("created_at", "pk")
    return [row.action for row in (rows.filter(chain=chain) if chain else rows)]


def last(action):
    return AuditEntry.objects.filter(action=action).latest("created_at")


def verify():
    """``(faults, what was printed)`` of the command."""
    said, faults = io.StringIO(), io.StringIO()
    try:
        call_command("verify_audit_chain", stdout=said, stderr=faults)
    except CommandError:
        assert faults.getvalue()
    return faults.getvalue().splitlines(), said.getvalue()


@pytest.fixture
def home(alice):
    return alice.personal_organization.pk


@pytest.fixture
def chain(home):
    """Five more entries in Alice's chain."""
    for n in range(5):
        audit.record(action="test.act", organization_id=home, after={"n": n})
    return home


def as_superuser(statement, *arguments):
    """What somebody with the database's own rights can do: without the triggers."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement, arguments)
        assert cursor.rowcount > 0
        cursor.execute("SET LOCAL session_replication_role = origin")


# --- Nothing can be changed without its showing -------------------------------------


def test_what_was_written_verifies(chain):
    assert verify()[0] == []
    assert f"{chain} {AuditHead.objects.get(pk=chain).count} " in verify()[1]


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
def test_the_database_refuses_changes(chain, statement):
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert verify()[0] == []


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
def test_a_changed_row_is_found(chain, column, value, position):
    count = AuditHead.objects.get(pk=chain).count
    position = count if position == "last" else position
    as_superuser(
        f"UPDATE accounts_auditentry SET {column} = %s WHERE chain = %s AND position = %s",
        value,
        chain,
        position,
    )

    faults, _ = verify()

    assert any(f"entry {position} " in fault for fault in faults)


@pytest.mark.parametrize("position", ["first", "middle", "last"])
def test_a_removed_row_is_found(chain, position):
    count = AuditHead.objects.get(pk=chain).count
    number = {"first": 1, "middle": 3, "last": count}[position]
    as_superuser(
        "DELETE FROM accounts_auditentry WHERE chain = %s AND position = %s", chain, number
    )

    faults, _ = verify()

    assert faults == [f"{chain}: entries {number} to {number} are missing"] or (
        position != "last" and f"entries {number} to {number} are missing" in faults[0]
    )
    figure("audit", removed=position, found=faults)


def test_a_chain_cut_short_with_its_head_is_found(chain):
    """Whoever sets the head back cannot seal it."""
    count = AuditHead.objects.get(pk=chain).count
    before = AuditEntry.objects.get(chain=chain, position=count - 1).hash
    as_superuser("DELETE FROM accounts_auditentry WHERE chain = %s AND position = %s", chain, count)
    as_superuser(
        "UPDATE accounts_audithead SET count = count - 1, hash = %s WHERE chain = %s", before, chain
    )

    assert "the seal of the head is wrong" in verify()[0][0]


def test_a_chain_without_its_head_is_found(chain):
    as_superuser("DELETE FROM accounts_audithead WHERE chain = %s", chain)

    assert verify()[0] == [f"{chain}: the chain has entries but no head"]


def test_a_row_written_anew_with_its_hash_is_found(chain):
    """The next row still names the old hash."""
    entry = AuditEntry.objects.get(chain=chain, position=3)
    entry.action = "other.act"
    as_superuser(
        "UPDATE accounts_auditentry SET action = 'other.act', hash = %s WHERE chain = %s AND position = 3",
        audit.compute_hash(entry), chain,
    )  # fmt: skip

    assert verify()[0] == [f"{chain}: entry 4 does not contain the hash of the entry before it"]


def test_the_entry_goes_with_the_act(home):
    with transaction.atomic():
        audit.record(action="test.undone", organization_id=home)
        transaction.set_rollback(True)

    assert "test.undone" not in acts()
    assert verify()[0] == []


@pytest.mark.django_db(transaction=True)
def test_parallel_acts_make_one_unbroken_chain(alice):
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
    assert verify()[0] == []


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
def test_hostile_values_are_kept_and_verify(home, value):
    audit.record(
        action="test.act",
        organization_id=home,
        after={"value": value},
        subject_name="\0x",
        reason="\ud800",
    )

    assert verify()[0] == []


@pytest.mark.parametrize(
    "name", ["password", "api_key", "sealed_token", "client_secret", "digest", "cookie"]
)
def test_secrets_are_said_to_be_set_and_not_shown(home, name):
    entry = audit.record(
        action="test.act", organization_id=home, after={name: "canary", "x": {name: "canary"}}
    )

    entry.refresh_from_db()
    assert entry.after == {name: "set", "x": {name: "set"}}


# --- Who acts -------------------------------------------------------------------------


def test_a_person_a_key_and_nobody(alice, home):
    browser = Client()
    browser.force_login(alice)
    browser.post(
        "/api/v1/conversations", {"title": "One"}, content_type="application/json",
        headers={"X-Request-ID": "request-1"}, REMOTE_ADDR="192.0.2.7",
    )  # fmt: skip
    person = last("conversation.created")
    key_client(alice).post("/api/v1/conversations", {"title": "Two"}, format="json")
    key = last("conversation.created")
    Client().post("/sign-in", {"email": "nobody@example.com", "password": "x"})
    nobody = last("sign_in.failed")

    assert (person.actor_kind, person.actor_id, person.actor_name) == (
        "person",
        str(alice.pk),
        alice.email,
    )
    assert (person.request_id, person.address) == ("request-1", "192.0.2.7")
    assert key.actor_kind == "key"
    assert key.actor_name.startswith("oh_")
    assert (nobody.actor_kind, nobody.subject_name, nobody.chain) == (
        "anonymous",
        "nobody@example.com",
        SITE,
    )


def test_a_command_acts_as_the_operating_systems_user(db, monkeypatch):
    monkeypatch.setattr("sys.argv", ["manage.py", "create_user"])
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    call_command("create_user", email="new@example.com", stdout=io.StringIO())

    entry = last("user.created")
    assert (entry.actor_kind, entry.actor_id, entry.actor_name) == (
        "command",
        "cli:root",
        "create_user",
    )


@pytest.mark.parametrize("command", ["run_worker", "run_realtime", "procrastinate"])
def test_a_serving_process_acts_as_the_system(home, monkeypatch, command):
    monkeypatch.setattr("sys.argv", ["manage.py", command])
    assert audit.record(action="test.act", organization_id=home).actor_kind == "system"
    with acting(lambda: Actor("service_account", id="1", name="bot", reason="ticket 5")):
        entry = audit.record(action="test.act", organization_id=home)
    assert (entry.actor_kind, entry.reason) == ("service_account", "ticket 5")


# --- What is written down ---------------------------------------------------------------


def test_signing_in_and_out(alice, home):
    browser = Client()
    browser.post("/sign-in", {"email": "alice@example.com", "password": "wrong"})
    browser.post("/sign-in", {"email": "Alice@example.com", "password": PASSWORD})
    browser.post("/sign-out")

    assert acts(chain=home)[-3:] == ["sign_in.failed", "sign_in.succeeded", "sign_in.ended"]
    assert (last("sign_in.succeeded").actor_kind, last("sign_in.ended").actor_id) == (
        "person",
        str(alice.pk),
    )


def test_people(alice, home):
    services.suspend_user(user=alice)
    services.suspend_user(user=alice)
    services.activate_user(user=alice)
    path = services.create_setup_link(email="first@example.com")
    services.use_setup_link(
        token=path.removeprefix("/setup/"), email="first@example.com", password=PASSWORD
    )

    assert acts(chain=home) == ["user.created", "user.suspended", "user.activated"]
    assert acts(chain=SITE) == ["setup_link.created", "setup_link.used"]
    assert last("user.suspended").after == {"is_active": False}
    assert last("user.created").after["is_superuser"] is True


def test_conversations(alice, bob, home):
    conversation = conversations.create_conversation(user=alice, title="A", idempotency_key="k")
    conversations.create_conversation(user=alice, title="A", idempotency_key="k")
    for _ in range(2):
        conversations.rename(conversation_id=conversation.pk, title="B")
        conversations.share(conversation_id=conversation.pk, visibility="organization")
    Conversation.objects.filter(pk=conversation.pk).update(
        execution_status="waiting_for_confirmation", asked_seq=1, asked_in_run=1
    )
    conversations.answer_confirmation(conversation_id=conversation.pk, accept=False, reason="No.")
    for _ in range(2):
        conversations.delete_conversation(conversation_id=conversation.pk)

    assert acts(chain=home)[1:] == [
        "conversation.created", "conversation.renamed", "conversation.shared",
        "confirmation.rejected", "conversation.deleted",
    ]  # fmt: skip
    renamed = last("conversation.renamed")
    assert (renamed.before, renamed.after) == ({"title": "A"}, {"title": "B"})
    assert last("confirmation.rejected").reason == "No."
    assert last("conversation.deleted").subject_id == str(conversation.pk)


def test_model_access(alice, home):
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

    assert acts(chain=home)[1:] == ["model_access.saved"] * 2 + ["model_access.cleared"]
    first, second = AuditEntry.objects.filter(action="model_access.saved").order_by("position")
    assert first.after["api_key"] == "set"
    assert (second.before, second.after) == ({"model": "m"}, {"model": "n"})


# --- Who may read it ----------------------------------------------------------------------


def listed(user, query=""):
    return key_client(user).get(f"/api/v1/audit{query}")


@pytest.mark.parametrize("role", Membership.Role.values)
def test_roles(alice, chain, role):
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


def test_strangers_and_the_sites_own_chain(chain, charlie, api):
    audit.record(action="site.act")

    assert listed(charlie, f"?organization={chain}").status_code == 403
    assert str(chain) not in listed(charlie).content.decode()
    assert "site.act" not in api.get("/api/v1/audit").content.decode()
    assert Client().get("/api/v1/audit").status_code == 401


def test_a_key_reads_its_own_organization_only(alice, bob, chain):
    Membership.objects.filter(user=bob, organization_id=chain).update(role="admin")
    here = key_client(bob, organization=alice.personal_organization)

    found = {item["organization"] for item in here.get("/api/v1/audit").json()["items"]}
    assert found == {str(chain)}
    assert str(chain) not in listed(bob).content.decode()


def test_filters_and_pages(chain, api, alice):
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


def test_the_log_cannot_be_written_over_the_api(chain, api):
    entry = AuditEntry.objects.filter(chain=chain).first()
    for method in ("post", "put", "patch", "delete"):
        assert getattr(api, method)("/api/v1/audit").status_code == 405
        assert getattr(api, method)(f"/api/v1/audit/{entry.pk}").status_code in (404, 405)


def test_the_admin_pages_only_read(chain):
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
