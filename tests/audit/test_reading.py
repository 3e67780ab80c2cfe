"""Staff who read private content of users enter a reason, and each page that they open is in the audit log."""

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.urls import reverse

from accounts.admin.reading import PrivateAdmin
from accounts.models import AuditEntry, CustomSecret, OrganizationSettings, UserSettings
from accounts.services import audit, custom_secrets
from conversations.models import Conversation, Event, OutgoingMessage
from lib.admin import is_secret
from tests.conftest import key_client
from tests.factories import conversations
from tests.factories.accounts import UserFactory

CANARY = "Takeover of Initech"
PRIVATE = {Conversation, Event, OutgoingMessage, CustomSecret, UserSettings, OrganizationSettings}


@pytest.fixture
def staff(db):
    return UserFactory(is_staff=True, is_superuser=True)


@pytest.fixture
def desk(client, staff):
    client.force_login(staff)
    return client


@pytest.fixture
def rows(alice):
    """A row of each model with private content; each contains the canary."""
    organization = alice.personal_organization
    conversation = conversations.ConversationFactory(
        created_by=alice, organization=organization, title=CANARY
    )
    inside = {"conversation": conversation, "organization": organization}
    own = UserSettings(user=alice, organization=organization, values={"instructions": CANARY})
    own.save()
    shared = OrganizationSettings(organization=organization, values={"instructions": CANARY})
    shared.save()
    return {
        Conversation: conversation,
        Event: conversations.EventFactory(payload=f'{{"text": "{CANARY}"}}', **inside),
        OutgoingMessage: conversations.OutgoingMessageFactory(text=CANARY, **inside),
        CustomSecret: custom_secrets.create_secret(
            organization=organization, by=alice, name="INITECH_KEY", description=CANARY, value="x"
        ),
        UserSettings: own,
        OrganizationSettings: shared,
    }


def url(row, page="change"):
    meta = row._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_{page}", args=[row.pk])


def changelist(model):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def readings():
    return AuditEntry.objects.filter(action="content.read_by_staff").order_by("created_at")


@pytest.mark.parametrize("model", sorted(PRIVATE, key=lambda m: m.__name__))
@pytest.mark.parametrize("page", ["change", "history"])
def test_page_opens_after_a_reason_and_each_opening_is_recorded(desk, staff, rows, model, page):
    row = rows[model]
    closed = desk.get(url(row, page))
    assert closed.status_code == 200
    assert CANARY not in closed.text
    assert "INITECH" not in closed.text
    assert 'name="reading_reason"' in closed.text
    assert not readings().exists()

    answer = desk.post(url(row, page), {"reading_reason": "Ticket 4711"})
    assert answer.status_code == 302
    opened = desk.get(answer.headers["Location"])
    again = desk.get(url(row))

    assert opened.status_code == again.status_code == 200
    assert CANARY in again.text or model is CustomSecret
    assert [(e.reason, e.actor_id, e.chain) for e in readings()] == [
        ("Ticket 4711", str(staff.pk), row.organization_id)
    ] * 2
    assert readings()[0].after == {"page": f"{model._meta.model_name} {row.pk}"}


@pytest.mark.parametrize("reason", ["", "   ", None, "\0", "x" * 301])
def test_missing_or_unusable_reason_opens_nothing(desk, rows, reason):
    form = {} if reason is None else {"reading_reason": reason}
    answer = desk.post(url(rows[Conversation]), form)

    assert answer.status_code in (200, 400, 403)
    assert CANARY not in answer.text
    assert CANARY not in desk.get(url(rows[Conversation])).text
    assert not readings().exists()


def test_reason_opens_everything_in_one_conversation_but_no_other(desk, rows):
    other = conversations.ConversationFactory(title="Other secret title")
    desk.post(url(rows[Conversation]), {"reading_reason": "Ticket 1"})

    assert CANARY in desk.get(url(rows[Event])).text
    assert CANARY in desk.get(url(rows[OutgoingMessage])).text
    assert "Other secret title" not in desk.get(url(other)).text
    assert CANARY not in desk.get(url(rows[UserSettings])).text
    assert {e.subject_id for e in readings()} == {str(rows[Conversation].pk)}


def test_reason_ends_after_a_while_and_with_the_session(desk, rows, staff, settings, monkeypatch):
    import time

    desk.post(url(rows[Conversation]), {"reading_reason": "Ticket 1"})
    assert CANARY in desk.get(url(rows[Conversation])).text
    start = time.time()
    monkeypatch.setattr(
        "accounts.admin.reading.time.time", lambda: start + settings.STAFF_REASON_SECONDS + 5
    )
    assert CANARY not in desk.get(url(rows[Conversation])).text
    monkeypatch.undo()
    assert CANARY in desk.get(url(rows[Conversation])).text
    desk.logout()
    desk.force_login(staff)
    assert CANARY not in desk.get(url(rows[Conversation])).text


def test_staff_without_the_view_permission_get_403_with_and_without_a_reason(client, rows):
    client.force_login(UserFactory(is_staff=True))
    for row in rows.values():
        assert client.get(url(row)).status_code == 403
        assert client.post(url(row), {"reading_reason": "x"}).status_code == 403
        assert client.get(url(row, "history")).status_code == 403
    assert not readings().exists()


def test_reason_needs_no_more_than_the_view_permission(client, rows):
    staff = UserFactory(is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename="view_conversation"))
    client.force_login(staff)

    client.post(url(rows[Conversation]), {"reading_reason": "Ticket"})

    assert CANARY in client.get(url(rows[Conversation])).text
    assert client.post(url(rows[Conversation]), {"title": "x"}).status_code == 403


@pytest.mark.parametrize("model", sorted(admin.site._registry, key=lambda m: m._meta.label))
def test_list_shows_no_private_content(desk, rows, model):
    page = desk.get(changelist(model))
    assert page.status_code == 200
    assert CANARY not in page.text
    assert "INITECH" not in page.text
    for word in ("Takeover", "INITECH") if admin.site._registry[model].search_fields else ():
        assert desk.get(f"{changelist(model)}?q={word}").context["cl"].result_count == 0
    assert desk.get(f"{changelist(model)}?q={rows[Conversation].pk}").status_code == 200


@pytest.mark.parametrize("model", sorted(admin.site._registry, key=lambda m: m._meta.label))
def test_page_of_another_row_shows_no_private_content(desk, rows, alice, model):
    """Pages without a reason, such as those of sandboxes, do not name the conversation by its title."""
    for factory in (
        conversations.StartTaskFactory, conversations.LeaseFactory, conversations.HostRuleFactory,
        conversations.EgressDecisionFactory,
    ):  # fmt: skip
        factory(conversation=rows[Conversation])
    for row in model._default_manager.all()[:3]:
        assert CANARY not in desk.get(url(row)).text
        assert CANARY not in desk.get(url(row, "history")).text


def list_hidden_columns(model):
    page = admin.site._registry[model]
    hidden = getattr(page, "private_fields", ())
    return [f.name for f in model._meta.concrete_fields if is_secret(f) or f.name in hidden]


@pytest.mark.parametrize(
    "model", [m for m in admin.site._registry if list_hidden_columns(m)], ids=lambda m: m.__name__
)
def test_list_cannot_be_filtered_by_a_hidden_column(desk, rows, model):
    for column in list_hidden_columns(model):
        for lookup in ("", "__startswith", "__regex", "__isnull", "__gt"):
            value = "1" if lookup == "__isnull" else "T"
            response = desk.get(f"{changelist(model)}?{column}{lookup}={value}")
            assert response.status_code == 400, (column, lookup)


@pytest.mark.parametrize(
    ("model", "query"),
    [
        (Event, "conversation__title__startswith=T"),
        (OutgoingMessage, "conversation__title__contains=T"),
        (Conversation, "created_by__password__startswith=a"),
        (Conversation, "outgoing_messages__text__contains=T"),
    ],
)
def test_list_cannot_be_filtered_by_a_hidden_column_of_another_model(desk, rows, model, query):
    assert desk.get(f"{changelist(model)}?{query}").status_code == 400


def test_models_with_private_content_ask_for_a_reason():
    gated = {m for m, page in admin.site._registry.items() if isinstance(page, PrivateAdmin)}
    assert gated == PRIVATE


# --- Titles in the audit log -----------------------------------------------------------------


def test_auditor_sees_no_title_in_new_and_old_entries(alice, rows):
    from conversations import services

    conversation = rows[Conversation]
    services.rename(conversation_id=conversation.pk, title="Merger with Initech")
    services.delete_conversation(conversation_id=conversation.pk)
    audit.record(  # as former releases wrote it
        action="conversation.renamed",
        organization_id=conversation.organization_id,
        subject=conversation,
        subject_name=CANARY,
        before={"title": CANARY, "visibility": "private"},
        after={"title": "Merger with Initech"},
    )

    items = key_client(alice).get("/api/v1/audit?limit=100").json()["items"]
    entries = [item for item in items if item["subject"]["kind"] == "conversation"]

    assert CANARY not in str(items)
    assert "Merger" not in str(items)
    assert {e["subject"]["name"] for e in entries} == {f"conversation {conversation.pk}"}
    assert entries[0]["before"] == {"title": "(not shown)", "visibility": "private"}
    stored = AuditEntry.objects.filter(action="conversation.deleted").get()
    assert CANARY not in stored.subject_name


def test_desk_shows_no_title_in_the_audit_log(desk, rows):
    conversation = rows[Conversation]
    entry = audit.record(
        action="conversation.renamed", organization_id=conversation.organization_id,
        subject=conversation, subject_name=CANARY, before={"title": CANARY}, after={"title": CANARY},
    )  # fmt: skip

    for path in (changelist(AuditEntry), url(entry), url(entry, "history"),
                 f"{changelist(AuditEntry)}?q={conversation.pk}"):  # fmt: skip
        page = desk.get(path)
        assert page.status_code == 200
        assert CANARY not in page.text
