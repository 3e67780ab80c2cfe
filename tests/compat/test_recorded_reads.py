"""The bytes of the compatible read routes for odd rows, compared with the bytes that the first release sent.

``RECORDED`` was written by the views that read with the ORM and encoded each event by itself. To record it again, run
this test with ``RECORD_READS=1`` on a revision whose responses are known to be right.
"""

import hashlib
import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts import services as accounts
from accounts.models import ApiKey, Membership, Organization, User
from accounts.services import provider_tokens, user_settings
from billing import services as billing
from billing.models import ConversationUsage
from conversations.models import Conversation, Event, OutgoingMessage, Sandbox, StartTask
from conversations.services import conversation_key
from tests.hostile import EVENTS

pytestmark = pytest.mark.django_db
PAYLOADS = Path(__file__).resolve().parents[1] / "payloads"
RECORDED = PAYLOADS / "compat" / "reads.json"
START = datetime(2026, 11, 22, 10, tzinfo=UTC)
FIRST_PK = 10**12
ODD_VALUES = (
    *("1e400", "-1e400", "1e-400", "-0", "-0.0", "1E5", "1e16", "1e-5", "0.00001", "1.0", "NaN"),
    *("123456789012345678901234", "18446744073709551615", "-9223372036854775808", "9" * 60),
    *(r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', '"é\u2028\x7f"', r'"\u0000\b\/"', '"😀"'),
    *('{"a":1,"b":2,"a":3}', "[[],{}]", "null", "true", '"x"', '{"\\ud83d":1}', "1.5e300", "00"),
)
HOSTILE = [name for name, raw in EVENTS.items() if len(raw) < 200_000]


def make_uuid(number):
    return UUID(int=number << 64 | 0x8000_0000_0000_0000)


@pytest.fixture
def people(settings):
    """Return Alice and Bob with fixed ids. Bob is a member of Alice's personal organization."""
    settings.TOKEN_PEPPERS = {"p1": bytes(32)}
    settings.PUBLIC_URL = "http://testserver"
    users = []
    for number, name in enumerate(("alice", "bob"), start=1):
        user = User.objects.create(id=make_uuid(number), email=f"{name}@example.com", name=name)
        personal = Organization.objects.create(
            id=make_uuid(10 + number), name=name, personal_of=user
        )
        Membership.objects.create(organization=personal, user=user, role=Membership.Role.OWNER)
        users.append(user)
    Membership.objects.create(organization=users[0].personal_organization, user=users[1])
    return users


def make_key(user, number):
    key, token = accounts.issue_api_key(user=user, name="recorded")
    ApiKey.objects.filter(pk=key.pk).update(id=make_uuid(100 + number))
    return token


def make_conversation(user, number, **fields):
    at = START - timedelta(minutes=number)
    defaults = {
        "title": f"Conversation {number}",
        "model": "demo",
        "status": "paused",
        "created_at": at,
        "updated_at": at + timedelta(seconds=number, microseconds=number),
    }
    return Conversation.objects.create(
        id=make_uuid(1_000 + number),
        organization=user.personal_organization,
        created_by=user,
        **defaults | fields,
    )


def list_events():
    """Return the kind, source, event id and payload of every event of the log."""
    recording = json.loads((PAYLOADS / "v0" / "recording.json").read_text())["log"]
    rows = []
    for turn in range(6):
        ids = {row["event_id"]: f"{row['event_id']}-{turn}" for row in recording}
        for row in recording:
            text = json.dumps(row["payload"], separators=(",", ":"))
            for old, new in ids.items():
                text = text.replace(old, new)
            rows.append((row["kind"], row["source"], ids[row["event_id"]], text))
        for number, value in enumerate(ODD_VALUES[turn * 5 : turn * 5 + 5]):
            rows += list_odd_events(f"odd-{turn}-{number}", value)
        for number, name in enumerate(HOSTILE[turn * 12 : turn * 12 + 12]):
            text = EVENTS[name].decode(errors="replace").replace("\0", "")
            kind = ("MessageEvent", "ActionEvent", "ConversationStateUpdateEvent")[number % 3]
            rows.append((kind, ("user", "agent")[number % 2], f"hostile-{turn}-{number}", text))
        rows.append(("TokenEvent", "agent", f"token-{turn}", "{}"))
        rows.append(("FutureEvent", "agent", f"future-{turn}", '{"kind":"FutureEvent"}'))
        rows.append(
            ("SandboxNotice", "server", f"notice-{turn}", '{"code":"engine_lost","message":"Lost"}')
        )
        forgotten = json.dumps([*list(ids.values())[:3], f"token-{turn}", "no-such-id"])
        condensation = f'{{"summary":"é","summary_offset":2,"forgotten_event_ids":{forgotten}}}'
        rows.append(("Condensation", "agent", f"condensation-{turn}", condensation))
        tokens = {"accumulated_cost": 1e-05, "accumulated_token_usage": {"prompt_tokens": turn}}
        uses = {"agent": tokens} if turn % 2 else {}
        stats = json.dumps({"key": "stats", "value": {"usage_to_metrics": uses}})
        rows.append(("ConversationStateUpdateEvent", "environment", f"stats-{turn}", stats))
    return rows


def list_odd_events(name, value):
    """Return calls of tools, their results and the totals of their cost, with an odd value in every place."""
    head = (
        '"tool_name":"odd","tool_call_id":"c","timestamp":"2026-11-22T10:00:00.5","id":"NAME-a",'
        '"kind":"ActionEvent","source":"agent","security_risk":"LOW"'
    )
    texts = '{"type":"text","text":"ok é"},{"type":"text","text":VALUE}'
    metrics = '{"accumulated_cost":VALUE,"max_budget_per_task":VALUE,"model_name":VALUE}'
    rows = (
        (
            "ConversationStateUpdateEvent",
            "s",
            '"key":"stats","value":{"usage_to_metrics":{"agent":METRICS}}',
        ),
        (
            "ActionEvent",
            "a",
            'HEAD,"thought":[TEXTS],"action":{"kind":"MCPToolAction","data":{"value":VALUE}}',
        ),
        (
            "ObservationEvent",
            "o",
            '"action_id":"NAME-a","observation":{"kind":"OddObservation","content":[TEXTS]}',
        ),
        (
            "ActionEvent",
            "b",
            'HEAD,"action":{"kind":"TerminalAction","command":VALUE,"timeout":VALUE}',
        ),
        (
            *("ObservationEvent", "p"),
            '"action_id":"NAME-b","observation":{"kind":"TerminalObservation","content":VALUE,"metadata":METADATA}',
        ),
        (
            *("ActionEvent", "c"),
            'HEAD,"action":{"kind":"FileEditorAction","command":"view","path":VALUE,"view_range":[VALUE,VALUE]}',
        ),
        ("SystemPromptEvent", "d", '"system_prompt":VALUE,"tools":[VALUE]'),
        ("MessageEvent", "e", '"llm_message":{"role":"assistant","content":[TEXTS,VALUE]}'),
        (
            "ActionEvent",
            "f",
            'HEAD,"action":{"kind":"DelegateAction","agent":VALUE,"inputs":[VALUE]}',
        ),
        ("ActionEvent", "g", 'HEAD,"action":{"kind":"BrowserClickAction","index":VALUE}'),
        ("Condensation", "h", '"summary":"x","summary_offset":VALUE'),
    )
    metadata = '{"exit_code":VALUE,"pid":VALUE,"prefix":VALUE,"username":VALUE}'
    words = {"HEAD": head, "TEXTS": texts, "METRICS": metrics, "METADATA": metadata}
    words |= {"NAME": name, "VALUE": value}
    for kind, suffix, fields in rows:
        payload = f"{{{fields}}}"
        for word, text in words.items():
            payload = payload.replace(word, text)
        source = "environment" if kind.startswith(("Obs", "Conv")) else "agent"
        yield (kind, source, f"{name}-{suffix}", payload)


@pytest.fixture
def log(people):
    """Return Alice's conversation with a long log of usual and odd events."""
    conversation = make_conversation(
        people[0], 1, status="running", execution_status="finished", visibility="organization"
    )
    rows = list_events()
    Event.objects.bulk_create(
        Event(
            id=FIRST_PK + seq,
            organization=conversation.organization,
            conversation=conversation,
            seq=seq,
            event_id=event_id,
            kind=kind,
            source=source,
            payload=payload,
            engine_time=START + timedelta(seconds=seq) if seq % 3 else None,
            received_at=START + timedelta(seconds=seq, microseconds=seq % 5 * 1_000),
        )
        for seq, (kind, source, event_id, payload) in enumerate(rows, start=1)
    )
    echoes = [
        event_id
        for kind, source, event_id, _ in rows
        if kind == "MessageEvent" and source == "user"
    ]
    for seq, event_id in enumerate(echoes[::2], start=1):
        OutgoingMessage.objects.create(
            organization=conversation.organization,
            conversation=conversation,
            seq=seq,
            text="hi",
            status="delivered",
            engine_event_id=event_id,
        )
    Conversation.objects.filter(pk=conversation.pk).update(last_seq=len(rows))
    return conversation


@pytest.fixture
def table(people, log):
    """Return conversations of every state, with usage, sandboxes, children and open messages."""
    alice, bob = people
    organization = alice.personal_organization
    rows = [log]
    for number, status in enumerate(Conversation.Status.values * 5, start=2):
        sandbox = None
        if number % 4:
            sandbox = Sandbox.objects.create(
                id=make_uuid(2_000 + number),
                organization=organization,
                provider="process",
                observed="missing" if number % 5 == 0 else "running",
                sealed_session_key=b"",
                sealed_secret_key=b"",
            )
        row = make_conversation(
            alice,
            number,
            status=status,
            sandbox=sandbox,
            execution_status=Conversation.ExecutionStatus.values[number % 7],
            repository={"provider": "github", "full_name": f"a/{number}", "branch": "ä"}
            if number % 3
            else None,
            pull_requests=[number, "x"] if number % 6 == 0 else [],
            archived_at=START if number % 7 == 0 else None,
            deleted_at=START if number == 9 else None,
            visibility="organization" if number % 2 else "private",
            wire_version="V0" if number % 2 else "V1",
            parent=rows[0] if number % 8 == 0 else None,
            trigger=Conversation.Trigger.values[number % 5],
        )
        rows.append(row)
        place = {"organization": organization, "conversation": row}
        if number % 2:
            ConversationUsage.objects.create(
                organization=organization,
                conversation_id=row.pk,
                calls=1,
                prompt_tokens=number,
                cost_micros=number,
            )
        if number % 3 == 0:
            OutgoingMessage.objects.create(
                **place, seq=1, text="hi", status="pending" if number % 2 else "failed"
            )
        for start, phase in enumerate(("ERROR", StartTask.Phase.values[number % 7])):
            at = START + timedelta(seconds=start)
            finished = None if start else START
            StartTask.objects.create(
                **place, phase=phase, reason="created", created_at=at, finished_at=finished
            )
    make_conversation(bob, 50)
    shared = make_conversation(bob, 51, parent=rows[1])
    Conversation.objects.filter(pk=shared.pk).update(
        organization=organization, visibility="organization"
    )
    return rows


def set_up_settings(alice):
    organization = alice.personal_organization
    user_settings.change_organization_settings(
        organization=organization,
        values={"language": "fr", "max_iterations": 200},
        enforced=["max_iterations"],
    )
    servers = {
        "shttp_servers": [{"url": "https://mcp.example.com/mcp", "api_key": "mcp-Key-0123456789"}]
    }
    values = {
        "git_user_name": "Ädä",
        "search_api_key": "tvly-Own-0123456789",
        "mcp_config": servers,
    }
    user_settings.change_settings(
        user=alice, organization=organization, values=values | {"max_budget_per_task_micros": 10}
    )
    billing.save_model_access(
        organization=organization,
        user=alice,
        model="gpt-5",
        base_url="https://api.openai.com/v1",
        api_key="sk-1",
    )
    for provider, host in (("gitlab", "git.example.com"), ("github", "")):
        provider_tokens.set_provider_token(
            user=alice,
            organization=organization,
            provider=provider,
            token="glpat-0123456789",
            host=host,
        )


def list_paths(log, table, last):
    pk, v0, v1 = log.pk.hex, f"/api/conversations/{log.pk.hex}", "/api/v1/app-conversations"
    conversations = [row.pk.hex for row in table]
    ids = "&".join(
        f"ids={text}" for text in [*conversations, make_uuid(51 + 1_000).hex, make_uuid(5).hex]
    )
    events = f"/api/v1/events/search?conversation_id__eq={pk}"
    middle = FIRST_PK + last // 2
    return [
        "/api/settings",
        *("/api/conversations?limit=20", "/api/conversations", "/api/conversations?limit=3"),
        *(
            "/api/conversations?conversation_trigger=gui",
            "/api/conversations?include_sub_conversations=true",
        ),
        *(
            "/api/conversations?selected_repository=a/5",
            "/api/conversations?limit=0",
            "/api/conversations?page_id=x",
        ),
        *(f"/api/conversations/{text}" for text in conversations),
        *(f"/api/conversations/{make_uuid(n).hex}" for n in (1_050, 1_051, 7)),
        *(
            f"{v1}/search?limit=20",
            f"{v1}/search",
            f"{v1}/search?limit=2",
            f"{v1}?{ids}",
            f"{v1}?ids=x",
        ),
        *(f"{v1}/search?title__contains=sation 1", f"{v1}/search?include_sub_conversations=true"),
        *(f"{v1}/search?created_at__gte=2026-11-22T09:50:00Z", f"{v1}/search?limit=101"),
        *(f"{v0}/events?start_id={n}&limit=100" for n in range(0, last + 60, 37)),
        *(f"{v0}/events?start_id={n}&limit=7" for n in range(0, last, 11)),
        *(f"{v0}/events?reverse=true&end_id={n}&limit=40" for n in range(0, last + 60, 31)),
        *(f"{v0}/events", f"{v0}/events?reverse=true&limit=100", f"{v0}/events?limit=0"),
        *(
            f"{v0}/events?limit=101",
            f"{v0}/events?start_id=-1",
            f"{v0}/events?exclude_hidden=true&limit=100",
        ),
        *(f"{v0}/events?include_types=run,message&limit=50", f"{v0}/events?query=odd&limit=50"),
        *(f"{v0}/trajectory",),
        *(events, f"{events}&limit=100&sort_order=TIMESTAMP_DESC", f"{events}&limit=0"),
        *(f"{events}&limit=30&page_id={FIRST_PK + n}" for n in range(0, last + 30, 29)),
        *(
            f"{events}&limit=30&sort_order=TIMESTAMP_DESC&page_id={FIRST_PK + n}"
            for n in range(0, last + 30, 29)
        ),
        *(f"{events}&page_id=5", f"{events}&page_id=x", f"{events}&page_id={FIRST_PK * 2}"),
        *(
            f"{events}&kind__eq=MessageEvent",
            f"{events}&timestamp__gte=2026-11-22T10:02:00Z&limit=20",
        ),
        f"/api/v1/events/search?conversation_id__eq={make_uuid(7)}",
        *(
            f"{v0}/events/search",
            f"{v0}/events/search?limit=10&page_id={middle}&sort_order=TIMESTAMP_DESC",
        ),
        f"{v0}/events/search?kind=ActionEvent&source=agent",
    ]


def follow_pages(client, path, name):
    """Return the responses of all pages of a list. ``name`` is the parameter of the next page's id."""
    found, page = {}, ""
    for _ in range(20):
        url = f"{path}{page}"
        found[url] = client.get(url)
        if not (next_id := found[url].json()["next_page_id"]):
            break
        page = f"&{name}={next_id}"
    return found


def describe(response):
    content = b"".join(response) if response.streaming else response.content
    text = content.decode("utf-8", "surrogatepass")
    # A key that was made with a session contains the id of the session.
    text = re.sub(r"ocs_c[\w=.-]+", "ocs_", text)
    text = re.sub(r'("request_id":")[^"]*', r"\1", text)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    head = [response.status_code, response.headers["Content-Type"], len(text), digest]
    return [*head, ascii(text[:200])]


def test_responses_have_the_recorded_bytes(people, log, table):
    alice, bob = people
    set_up_settings(alice)
    token = make_key(alice, 1)
    bearer = APIClient(headers={"Authorization": f"Bearer {token}"})
    other = APIClient(headers={"X-Session-API-Key": make_key(bob, 2)})
    browser = Client()
    browser.force_login(alice)
    bound = accounts.authenticate_api_key(token).user
    holder = APIClient(
        headers={"X-Session-API-Key": conversation_key(conversation=log, user=bound)}
    )
    last = Event.objects.filter(conversation=log).count()

    found = {}
    for name, client in {"key": bearer, "bob": other, "browser": browser, "holder": holder}.items():
        for path in list_paths(log, table, last):
            found[f"{name} {path}"] = describe(client.get(path))
        for path in ("/api/conversations?limit=4", "/api/v1/app-conversations/search?limit=4"):
            pages = follow_pages(client, path, "page_id")
            found |= {f"{name} {url}": describe(response) for url, response in pages.items()}
    if os.environ.get("RECORD_READS"):
        RECORDED.write_text(json.dumps(found, indent=0) + "\n")

    recorded = json.loads(RECORDED.read_text())
    assert found.keys() == recorded.keys()
    assert {
        name: [found[name], recorded[name]] for name in found if found[name] != recorded[name]
    } == {}
