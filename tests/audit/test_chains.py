"""Everything that a writer of the database can do to the audit log is found by ``manage.py verify_audit_chain``."""

import io
import json

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from accounts import services
from accounts.models import AuditEntry, AuditHead
from accounts.models.audit import SITE
from accounts.services import audit, organizations
from tests.conftest import key_client

COLUMNS = [field.name for field in AuditEntry._meta.concrete_fields]


def verify(*arguments, **options):
    """Run the command and return ``(faults, output)``. Only a ``CommandError`` may end it early."""
    output, faults = io.StringIO(), io.StringIO()
    try:
        call_command("verify_audit_chain", *arguments, stdout=output, stderr=faults, **options)
    except CommandError as error:
        return [*faults.getvalue().splitlines(), str(error)], output.getvalue()
    return faults.getvalue().splitlines(), output.getvalue()


def execute(*statements):
    """Run ``(sql, *arguments)`` as the owner of the database can: without triggers and constraints of positions."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        for sql, *arguments in statements:
            cursor.execute(sql, arguments)
        cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.fixture
def chain(alice):
    """The chain of Alice's organization, with five more entries."""
    pk = alice.personal_organization.pk
    for n in range(5):
        audit.record(action="test.act", organization_id=pk, after={"n": n})
    return pk


@pytest.fixture
def team(alice):
    """Another organization, with a chain of three entries."""
    team = organizations.create_organization(user=alice, name="Team")
    for n in range(2):
        audit.record(action="test.act", organization_id=team.pk, after={"n": n})
    return team.pk


def forge(chain, position, **columns):
    """Insert an entry with a valid hash, as somebody who has read this code can."""
    last = AuditEntry.objects.filter(chain=chain, position__lt=position).order_by("position").last()
    entry = AuditEntry.objects.filter(chain=chain).last()
    entry.pk = audit.uuid7()
    entry.position, entry.previous = position, last.hash if last else ""
    for name, value in ({"action": "forged.act"} | columns).items():
        setattr(entry, name, value)
    entry.hash = audit.compute_hash(entry)
    entry.save(force_insert=True)
    return entry


def relink(chain):
    """Recompute the hashes of all entries of a chain, as somebody without the pepper can."""
    previous = ""
    for entry in AuditEntry.objects.filter(chain=chain).order_by("position"):
        entry.previous = previous
        entry.hash = previous = audit.compute_hash(entry)
        execute(
            ("UPDATE accounts_auditentry SET previous = %s, hash = %s WHERE id = %s",
             entry.previous, entry.hash, entry.pk),
        )  # fmt: skip
    return previous


def read_head(chain):
    return AuditHead.objects.filter(pk=chain).values_list(
        "chain", "count", "hash", "seal", "pepper_id"
    )[0]


def put_head(chain, head):
    execute(
        ("DELETE FROM accounts_audithead WHERE chain = %s", chain),
        ("INSERT INTO accounts_audithead (chain, count, hash, seal, pepper_id) VALUES (%s, %s, %s, %s, %s)", *head),
        ("DELETE FROM accounts_auditentry WHERE chain = %s AND position > %s", chain, head[1]),
    )  # fmt: skip


def forget_marks():
    """Remove the marks, as an attacker who has read this code does."""
    execute(("DELETE FROM accounts_auditmark",))


# --- Rows behind the head ---------------------------------------------------------------------


@pytest.mark.parametrize("distance", [1, 2, 50, "largest"])
def test_entry_behind_the_head_is_a_fault_is_hidden_and_breaks_nothing(
    alice, chain, api, distance, client
):
    count = AuditHead.objects.get(pk=chain).count
    position = 2**63 - 1 if distance == "largest" else count + distance
    forge(chain, position, subject_name="FORGED")

    faults, _ = verify()
    assert f"{chain}: entries {position} to {position} were inserted behind the head" in faults
    assert "FORGED" not in api.get("/api/v1/audit?limit=100").content.decode()
    alice.is_staff = alice.is_superuser = True
    alice.save()
    client.force_login(alice)
    assert "FORGED" not in client.get("/admin/accounts/auditentry/").text

    # The next actions of the organization work, and their entries can be read.
    for title in ("One", "Two", "Three"):
        assert api.post("/api/v1/conversations", {"title": title}, format="json").status_code == 201
    items = api.get("/api/v1/audit?action=conversation.created").json()["items"]
    assert len(items) == 3
    assert "FORGED" not in api.get("/api/v1/audit?limit=100").content.decode()
    assert "FORGED" not in client.get("/admin/accounts/auditentry/").text
    faults, _ = verify()
    assert len(faults) == 2  # the inserted rows, and the sentence of the command
    assert f"entries {position} to {position} were inserted behind the head" in faults[0]


def test_forged_run_of_entries_behind_the_head_is_skipped_as_a_whole(chain, api):
    count = AuditHead.objects.get(pk=chain).count
    for position in (*range(count + 1, count + 6), count + 8):
        forge(chain, position)

    for n in range(6):
        audit.record(action="real.act", organization_id=chain, after={"n": n})

    items = api.get("/api/v1/audit?limit=100").json()["items"]
    positions = sorted(i["position"] for i in items if i["action"] == "real.act")
    assert positions == [count + n for n in (6, 7, 9, 10, 11, 12)]
    assert not [i for i in items if i["action"] == "forged.act"]
    faults, _ = verify()
    assert [f.split(": ", 1)[1].split(" were")[0] for f in faults[:-1]] == [
        f"entries {count + 1} to {count + 5}",
        f"entries {count + 8} to {count + 8}",
    ]


def test_invented_gap_is_a_fault(chain):
    execute(
        ("INSERT INTO accounts_auditgap (chain, first, last, seal, pepper_id) VALUES (%s, 2, 4, %s, 'p1')",
         chain, "0" * 64),
    )  # fmt: skip
    assert f"{chain}: the gap 2 to 4 was not recorded by this server" in verify()[0]


def test_gap_copied_to_another_chain_is_a_fault(chain, team):
    forge(chain, AuditHead.objects.get(pk=chain).count + 1)
    audit.record(action="real.act", organization_id=chain)
    execute(
        (
            """INSERT INTO accounts_auditgap (chain, first, last, seal, pepper_id)
            SELECT %s, first, last, seal, pepper_id FROM accounts_auditgap""",
            team,
        )
    )
    assert any(
        str(team) in fault and "not recorded by this server" in fault for fault in verify()[0]
    )


# --- Rows inside the chain --------------------------------------------------------------------

CHANGES = {
    "id": "018f0000-0000-7000-8000-000000000000", "chain": "018f0000-0000-7000-8000-000000000001",
    "position": 900, "created_at": "2020-01-01T00:00:00Z", "before": '{"a": 1}', "after": '{"n": 2.0}',
    "previous": "0" * 64, "hash": "0" * 64,
}  # fmt: skip


@pytest.mark.parametrize("position", [1, 3, "last"])
@pytest.mark.parametrize("column", COLUMNS)
def test_change_of_every_column_is_a_fault(chain, column, position):
    number = AuditHead.objects.get(pk=chain).count if position == "last" else position
    execute(
        (f"UPDATE accounts_auditentry SET {column} = %s WHERE chain = %s AND position = %s",
         CHANGES.get(column, "x"), chain, number),
    )  # fmt: skip
    faults, _ = verify()
    assert any(fault.startswith(str(chain)) for fault in faults)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("created_at", "infinity"),
        ("created_at", "-infinity"),
        ("created_at", "0044-03-15 00:00:00+00 BC"),
        ("created_at", "20000-01-01T00:00:00Z"),
        ("after", json.dumps({"n": 2}).replace("2", "1" + "0" * 400)),
        ("after", '{"n": 18446744073709551616}'),
        ("after", "[" * 3000 + "]" * 3000),
        ("after", "null"),
        ("after", '"text"'),
        ("after", "[]"),
        ("hash", "é"),
    ],
)
def test_unreadable_value_is_a_fault_and_breaks_no_reader(chain, api, alice, client, column, value):
    execute(
        (f"UPDATE accounts_auditentry SET {column} = %s WHERE chain = %s AND position = 3",
         value, chain),
    )  # fmt: skip
    faults, _ = verify()
    assert any(fault.startswith(f"{chain}: entry 3 ") for fault in faults)
    alice.is_staff = alice.is_superuser = True
    alice.save()
    client.force_login(alice)
    is_deep = value.startswith("[[")  # deeper than Python's recursion limit
    listing = client.get("/admin/accounts/auditentry/")
    assert listing.status_code == (400 if is_deep else 200)
    if column == "created_at":
        assert api.get("/api/v1/audit?limit=100").status_code == 200


@pytest.mark.parametrize("is_relinked", [False, True])
@pytest.mark.parametrize("which", ["first", "middle", "last", "two", "all"])
def test_removed_entries_are_a_fault(chain, which, is_relinked):
    count = AuditHead.objects.get(pk=chain).count
    where = {"first": "= 1", "middle": "= 3", "last": f"= {count}", "two": "IN (2, 4)", "all": "> 0"}[which]  # fmt: skip
    execute((f"DELETE FROM accounts_auditentry WHERE chain = %s AND position {where}", chain))
    if is_relinked:
        relink(chain)
    assert any(str(chain) in fault for fault in verify()[0])


@pytest.mark.parametrize("is_relinked", [False, True])
def test_swapped_entries_are_a_fault(chain, is_relinked):
    execute(
        ("UPDATE accounts_auditentry SET position = 1000 WHERE chain = %s AND position = 2", chain),
        ("UPDATE accounts_auditentry SET position = 2 WHERE chain = %s AND position = 4", chain),
        ("UPDATE accounts_auditentry SET position = 4 WHERE chain = %s AND position = 1000", chain),
    )
    if is_relinked:
        relink(chain)
    assert any(str(chain) in fault for fault in verify()[0])


@pytest.mark.parametrize("position", [0, -5, 3])
def test_entry_at_an_impossible_position_is_a_fault(chain, position):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE accounts_auditentry DROP CONSTRAINT audit_position_unique")
        cursor.execute(
            "ALTER TABLE accounts_auditentry DROP CONSTRAINT accounts_auditentry_position_check"
        )
    forge(chain, position)
    assert any(str(chain) in fault for fault in verify()[0])


@pytest.mark.parametrize("has_new_head", [False, True])
def test_rewritten_chain_without_the_pepper_is_a_fault(chain, has_new_head):
    execute(
        ("UPDATE accounts_auditentry SET action = 'x' WHERE chain = %s AND position = 3", chain)
    )
    last = relink(chain)
    if has_new_head:
        execute(("UPDATE accounts_audithead SET hash = %s WHERE chain = %s", last, chain))
    assert any(str(chain) in fault for fault in verify()[0])


def test_entries_copied_to_another_organization_are_a_fault(chain, team):
    count = AuditHead.objects.get(pk=team).count
    for entry in AuditEntry.objects.filter(chain=chain, position__gt=count).order_by("position"):
        forge(team, entry.position, action=entry.action)
    put_head_of = read_head(chain)
    execute(
        ("UPDATE accounts_audithead SET count = %s, hash = %s, seal = %s, pepper_id = %s WHERE chain = %s",
         *put_head_of[1:], team),
    )  # fmt: skip
    assert any(str(team) in fault for fault in verify()[0])


def test_chain_under_the_id_of_another_organization_is_a_fault(chain, team):
    execute(
        ("DELETE FROM accounts_auditentry WHERE chain = %s", team),
        ("DELETE FROM accounts_audithead WHERE chain = %s", team),
        ("UPDATE accounts_auditentry SET chain = %s WHERE chain = %s", team, chain),
        ("UPDATE accounts_audithead SET chain = %s WHERE chain = %s", team, chain),
    )
    relink(team)
    assert {str(chain), str(team)} <= {fault[:36] for fault in verify()[0]}


# --- Heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value"),
    [("count", "count - 1"), ("count", "count + 1"), ("count", "0"), ("hash", "''"), ("seal", "''"),
     ("seal", "'é'"), ("pepper_id", "''"), ("pepper_id", "'p2'"), ("chain", "gen_random_uuid()")],
)  # fmt: skip
def test_change_of_every_column_of_a_head_is_a_fault(chain, column, value):
    execute((f"UPDATE accounts_audithead SET {column} = {value} WHERE chain = %s", chain))
    assert any(str(chain) in fault for fault in verify()[0])


@pytest.mark.parametrize("knows_marks", [False, True])
@pytest.mark.parametrize("is_continued", [False, True])
def test_old_head_with_its_valid_seal_is_a_fault(chain, knows_marks, is_continued):
    old = read_head(chain)
    for n in range(3):
        audit.record(action="test.later", organization_id=chain, after={"n": n})
    assert verify()[0] == []  # this run anchors the heads
    put_head(chain, old)
    if knows_marks:
        forget_marks()
    if is_continued:
        for _ in range(5):
            audit.record(action="test.other", organization_id=chain)

    faults = [fault for fault in verify()[0] if fault.startswith(str(chain))]

    assert faults
    assert any("an older head was put back" in f or "is not the entry that" in f for f in faults)


def test_old_head_is_found_before_the_first_anchor(chain):
    old = read_head(chain)
    audit.record(action="test.later", organization_id=chain)
    put_head(chain, old)

    assert any("an older head was put back" in fault for fault in verify()[0])


def test_site_chain_put_back_is_a_fault(chain, tmp_path):
    audit.record(action="site.act")
    old = read_head(SITE)
    file = tmp_path / "printout"
    audit.record(action="site.later")
    assert verify("--anchor", str(file))[0] == []
    put_head(SITE, old)
    forget_marks()

    assert any(fault.startswith("site: the head is at") for fault in verify(f"--anchor={file}")[0])


@pytest.mark.parametrize("knows_marks", [False, True])
@pytest.mark.parametrize("what", ["chain", "entries", "head", "empty head"])
def test_removed_chain_is_a_fault(chain, knows_marks, what):
    if what != "head":
        execute(("DELETE FROM accounts_auditentry WHERE chain = %s", chain))
    if what != "entries":
        execute(("DELETE FROM accounts_audithead WHERE chain = %s", chain))
    if what == "empty head":
        execute(
            (
                """INSERT INTO accounts_audithead (chain, count, hash, seal, pepper_id)
                VALUES (%s, 0, '', '', '')""",
                chain,
            )
        )
    if knows_marks:
        forget_marks()
    assert any(fault.startswith(str(chain)) for fault in verify()[0])
    assert any(fault.startswith(str(chain)) for fault in verify("--organization", str(chain))[0])


def test_unknown_organization_has_no_chain(db):
    pk = "018f0000-0000-7000-8000-000000000000"
    assert verify("--organization", pk)[0][0] == f"{pk}: the chain is missing"


def test_truncated_tables_are_a_fault(chain, team):
    execute(
        ("TRUNCATE accounts_auditentry, accounts_audithead, accounts_auditmark, accounts_auditgap",)
    )
    faults, _ = verify()
    assert f"{chain}: the chain is missing" in faults
    assert f"{team}: the chain is missing" in faults


# --- Anchors --------------------------------------------------------------------------------------


def test_printout_finds_what_the_database_no_longer_shows(chain, tmp_path):
    """The attacker puts the whole database back to an older state, with all seals, marks and anchors."""
    file = tmp_path / "printout"
    assert verify("--anchor", str(file))[0] == []
    before = {c: read_head(c) for c in (chain, SITE)}
    audit.record(action="test.later", organization_id=chain)
    assert verify("--anchor", str(file))[0] == []
    for c, head in before.items():
        put_head(c, head)
    forget_marks()

    without, _ = verify()
    faults, _ = verify("--anchor", str(file), "--dry-run")

    assert without == []
    assert any(f"{chain}: the head is at entry" in fault for fault in faults)
    assert any("the earlier output of this command" in fault for fault in faults)


def test_printout_on_a_terminal_can_be_compared_too(chain, tmp_path):
    file = tmp_path / "printout"
    file.write_text(verify()[1])
    audit.record(action="test.later", organization_id=chain)
    assert verify("--anchor", str(file), "--dry-run")[0] == []
    count, digest = read_head(chain)[1:3]
    file.write_text(f"{chain} {count} {digest[::-1]}\n")
    faults, _ = verify("--anchor", str(file))
    assert faults[0] == (
        f"{chain}: entry {count} is not the entry that the earlier output of this command names"
    )
    assert file.read_text() == f"{chain} {count} {digest[::-1]}\n"  # kept after a fault


@pytest.mark.parametrize("text", ["", "nonsense", "\udcff".encode(errors="surrogateescape")])
def test_file_that_is_no_printout_is_refused(chain, tmp_path, text):
    file = tmp_path / "printout"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    faults, _ = verify("--anchor", str(file))
    assert str(file) in faults[0]
    assert "cannot be read" in faults[0] or "is not an output of this command" in faults[0]


def test_heads_are_anchored_once_in_the_site_chain(chain, team):
    from accounts.tasks import anchor_audit_heads

    anchor_audit_heads(timestamp=0)
    anchor_audit_heads(timestamp=60)
    [entry] = AuditEntry.objects.filter(action="audit.anchored")
    count, digest = read_head(chain)[1:3]
    assert entry.chain == SITE
    assert entry.after["heads"][str(chain)] == f"{count} {digest}"
    assert str(team) in entry.after["heads"]

    audit.record(action="test.later", organization_id=chain)
    anchor_audit_heads(timestamp=120)
    latest = AuditEntry.objects.filter(action="audit.anchored").latest("position")
    assert list(latest.after["heads"]) == [str(chain)]
    assert verify()[0] == []


def test_changed_anchor_is_a_fault_and_anchors_nothing(chain):
    verify()
    execute(
        ("UPDATE accounts_auditentry SET after = %s WHERE action = 'audit.anchored'",
         json.dumps({"heads": {str(chain): "x", "y": 1, "z": None}})),
    )  # fmt: skip
    assert any(fault.startswith("site: entry") for fault in verify()[0])


def test_dry_run_records_nothing(chain):
    assert verify("--dry-run")[0] == []
    assert not AuditEntry.objects.filter(action="audit.anchored").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_auditmark SET count = count - 1",
        "DELETE FROM accounts_auditmark",
        "DELETE FROM accounts_auditgap",
        "UPDATE accounts_auditgap SET last = 1",
    ],
)
def test_database_refuses_to_change_marks_and_gaps(chain, statement):
    from django.db import DatabaseError, transaction

    forge(chain, AuditHead.objects.get(pk=chain).count + 1)
    audit.record(action="real.act", organization_id=chain)
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)


def test_sign_in_works_after_a_row_was_inserted_behind_the_head(alice, chain):
    forge(chain, AuditHead.objects.get(pk=chain).count + 1)
    form = {"email": alice.email, "password": "correct horse battery"}
    assert Client().post("/sign-in", form).status_code == 302
    _, token = services.issue_api_key(user=alice, name="x")
    assert token
    assert key_client(alice).get("/api/v1/audit").status_code == 200
