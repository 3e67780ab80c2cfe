"""Redaction: values of secrets are never stored in events, in any encoding that a sandbox may write."""

import base64
import json
from typing import ClassVar
from urllib.parse import quote

import pytest
from django.test import Client

from accounts.models import CustomSecret, CustomSecretUse, ProviderToken, UserSettings
from accounts.services import custom_secrets, provider_tokens, user_settings
from billing import services as billing
from conversations import services
from conversations.models import SearchText
from conversations.services import redaction, start_tasks, starts
from conversations.services.keys import conversation_key
from conversations.services.streamed_text import StreamedText
from lib import crypto
from tests.conversations.conftest import ingest, make_frame, make_status_frame

VALUE = 'pa"ss\\wörd/+ 1=?'
HIDDEN = redaction.HIDDEN


def redact(payload, *values):
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return redaction.redact(text, redaction.build_finder(values or (VALUE,)))


@pytest.fixture
def secret(alice, running):
    redaction.clear_cache()
    provider_tokens.set_provider_token(
        user=alice, organization=alice.personal_organization, provider="github", token="ghp_Sec1"
    )
    return custom_secrets.create_secret(
        organization=alice.personal_organization, by=alice, name="TOKEN", value=VALUE
    )


ENCODINGS = {
    "plain": VALUE,
    "within JSON": json.dumps({"a": VALUE}),
    "within JSON, not ASCII": json.dumps({"a": VALUE}, ensure_ascii=False),
    "within JSON twice": json.dumps(json.dumps({"a": VALUE})),
    "URL": f"https://x:{quote(VALUE, safe='')}@example.com",
    "form body": f"a={quote(VALUE, safe='').replace('%20', '+')}&b=1",
    "hexadecimal": VALUE.encode().hex(),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 of a line": base64.b64encode(f"{VALUE}\n".encode()).decode(),
    "base64 after one byte": base64.b64encode(f":{VALUE}".encode()).decode(),
    "base64 after a name": base64.b64encode(f"me:{VALUE}!".encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(f"??{VALUE}".encode()).decode(),
}


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_secret_is_hidden_in_every_encoding(encoding, ensure_ascii):
    payload = json.dumps(
        {"text": f"before {ENCODINGS[encoding]} after", "n": 1}, ensure_ascii=ensure_ascii
    )

    redacted = json.loads(redact(payload))

    assert HIDDEN in redacted["text"]
    assert redacted["text"].startswith("before ")
    assert redacted["n"] == 1


class TestJson:
    def test_payload_without_a_secret_is_returned_unchanged(self):
        payload = '{"a" : 1.0e5,\n "b":"\\u00e9\\/", "a": [ ] }'

        assert redact(payload) is payload

    def test_text_around_a_secret_is_unchanged(self):
        payload = '{"n":1.50, "u":"\\u00e9\\/", "s":"a Sec-val-1 b"}'

        assert redact(payload, "Sec-val-1") == f'{{"n":1.50, "u":"\\u00e9\\/", "s":"a {HIDDEN} b"}}'

    def test_json_numbers_and_literals_are_not_hidden(self):
        payload = '{"n":1234567,"s":"1234567","b":[null,null]}'

        assert redact(payload, "1234567", "null,null") == (
            f'{{"n":1234567,"s":"{HIDDEN}","b":[null,null]}}'
        )

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("nabcdef", "\nabcdef"),
            ('","a":"', 'x","a":"y'),
            ("\\\\\\\\\\\\", "\\" * 6),
            ("u00e9abc", "éabc"),
        ],
    )
    def test_json_escapes_are_not_split(self, value, text):
        payload = json.dumps({"s": text, "t": [text]})

        redacted = json.loads(redact(payload, value))

        assert redacted["s"] == text.replace(value, HIDDEN)

    def test_lone_surrogates_are_preserved(self):
        payload = '{"s":"\\ud800 Sec-val-1"}'

        redacted = redact(payload, "Sec-val-1")

        redacted.encode()
        assert json.loads(redacted) == {"s": f"\ud800 {HIDDEN}"}

    def test_secret_of_many_lines_is_hidden_line_by_line(self):
        key = "-----BEGIN KEY-----\nAAAABBBBCCCCDDDD\nEEEEFFFFGGGGHHHH\n-----END KEY-----\n"
        printed = "  AAAABBBBCCCCDDDD\r\n  EEEEFFFFGGGGHHHH\r\n"

        assert json.loads(redact({"s": printed}, key))["s"] == f"  {HIDDEN}\r\n  {HIDDEN}\r\n"


class TestIngest:
    def test_stored_events_contain_no_secret(self, secret, running):
        """Both functions that ingest events hide the values and change nothing else."""
        plain = {"text": f"it is {VALUE}, or ghp_Sec1", "kept": "é"}

        ingest(running, make_frame(0, **plain))
        ingest(running, make_frame(1, **plain), make_status_frame(2, "running"))

        for event in running.events.filter(engine_seq__in=[0, 1]):
            assert json.loads(event.payload) == {
                "id": event.event_id,
                "kind": "MessageEvent",
                "source": "agent",
                "text": f"it is {HIDDEN}, or {HIDDEN}",
                "kept": "é",
            }
        assert running.events.count() == 3

    def test_new_value_of_a_secret_is_hidden(self, secret, running):
        ingest(running, make_frame(0))
        custom_secrets.change_secret(secret=secret, value="Another-one")

        ingest(running, make_frame(1, text="Another-one"))

        payload = running.events.get(engine_seq=1).payload
        assert HIDDEN in payload
        assert "Another-one" not in payload

    def test_absence_of_secrets_is_cached_without_queries(
        self, running, alice, django_assert_num_queries
    ):
        redaction.clear_cache()
        assert redaction.build_payload_redactor(running.pk) is None
        with django_assert_num_queries(0):
            assert redaction.build_payload_redactor(running.pk) is None

    def test_secrets_of_other_users_are_not_hidden(self, running, charlie):
        custom_secrets.create_secret(
            organization=charlie.personal_organization,
            by=charlie,
            name="TOKEN",
            value="Charlies-one",
        )
        redaction.clear_cache()

        ingest(running, make_frame(0, text="Charlies-one"))

        assert "Charlies-one" in running.events.get().payload


class TestUsersTexts:
    """Users paste secrets too. The log, the title and the search have no value; the agent gets the text as it is."""

    @pytest.mark.parametrize(
        "text",
        [VALUE, base64.b64encode(VALUE.encode()).decode(), quote(VALUE, safe=""), f"a {VALUE} b"],
    )
    def test_message_and_title_are_stored_without_secrets(self, secret, alice, text):
        conversation = services.create_conversation(user=alice, message=text)
        services.post_message(conversation_id=conversation.pk, text=f"use {text}", message_id="m")
        titled = services.create_conversation(user=alice, title=f"x {text}")
        services.rename(conversation_id=conversation.pk, title=f"y {text}")

        for event in conversation.events.all():
            assert HIDDEN in json.loads(event.payload)["text"]
        conversation.refresh_from_db()
        assert HIDDEN in conversation.title
        assert text not in conversation.title
        assert HIDDEN in titled.title
        services.index_conversation(conversation_id=conversation.pk)
        for row in SearchText.objects.filter(conversation=conversation):
            assert VALUE not in row.text
            assert text not in row.text
        assert conversation.outgoing_messages.last().text == f"use {text}"

    def test_title_never_contains_the_beginning_of_a_secret(self, alice, running):
        long = "Sec-" + "abcdefghij" * 20
        custom_secrets.create_secret(
            organization=alice.personal_organization, by=alice, name="LONG", value=long
        )

        conversation = services.create_conversation(user=alice, message=f"use {long}")

        assert conversation.title == f"use {HIDDEN}"

    def test_text_of_a_delivered_message_is_kept_without_secrets(self, secret, running, engine):
        services.post_message(conversation_id=running.pk, text=f"use {VALUE}", message_id="m")
        services.deliver_messages(conversation_id=running.pk)
        assert engine.user_texts(str(running.pk)) == [f"use {VALUE}"]
        message = {"role": "user", "content": [{"type": "text", "text": f"use {VALUE}"}]}

        ingest(running, make_frame(0, source="user", llm_message=message))

        sent = running.outgoing_messages.get()
        assert (sent.text, sent.status) == (f"use {HIDDEN}", "delivered")


class TestStreamedText:
    @pytest.mark.parametrize("size", [1, 3, 7, 50])
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_secret_is_hidden_however_the_stream_is_cut(self, secret, running, size, wrapped):
        encoded = base64.b64encode(VALUE.encode() * 3).decode()
        text = (
            f"It is {VALUE} and {encoded[:20]}\n{encoded[20:]}." if wrapped else f"It is {VALUE}."
        )
        text += " More text follows here." * 20
        stream = StreamedText()

        shown = ""
        for order, start in enumerate(range(0, len(text), size)):
            delta = {"item_id": "i", "kind": "text", "order": order, "content": text[start : start + size]}  # fmt: skip
            for sent in stream.redact(conversation_id=running.pk, deltas=[delta]):
                shown += sent["content"]

        assert shown.startswith(f"It is {HIDDEN}")
        assert VALUE[:6] not in shown
        assert encoded[6:16] not in shown

    def test_stream_without_secrets_is_not_delayed(self, running):
        redaction.clear_cache()
        delta = {"item_id": "i", "kind": "text", "order": 0, "content": "Hi"}

        assert StreamedText().redact(conversation_id=running.pk, deltas=[delta]) == [delta]


@pytest.mark.parametrize("sealed", [b"", b"\x03old" + b"x" * 40, b"\xff" * 60, b"\x00"])
class TestUnreadableSecrets:
    """A stored secret whose key is gone, or that is damaged, is skipped. Only its own use fails."""

    def test_ingestion_and_exports_go_on_and_hide_the_others(self, secret, alice, running, sealed, api, caplog):  # fmt: skip
        broken = custom_secrets.create_secret(
            organization=alice.personal_organization, by=alice, name="BROKEN", value="Sec-broken"
        )
        CustomSecret.objects.filter(pk=broken.pk).update(sealed_value=sealed)
        redaction.clear_cache()

        ingest(running, make_frame(0, text=f"it is {VALUE}"))

        assert HIDDEN in running.events.get(engine_seq=0).payload
        assert str(broken.pk) in caplog.text
        for kind in ("json", "markdown", "html"):
            path = f"/api/v1/conversations/{running.pk}/trajectory?format={kind}"
            response = api.get(path)
            assert response.status_code == 200
            assert VALUE not in b"".join(response.streaming_content).decode()

    def test_lists_and_pages_name_it_and_its_use_says_what_to_do(self, alice, running, sealed, api):
        broken = custom_secrets.create_secret(
            organization=alice.personal_organization, by=alice, name="BROKEN", value="Sec-broken"
        )
        CustomSecret.objects.filter(pk=broken.pk).update(sealed_value=sealed)

        [item] = api.get("/api/v1/secrets").json()["items"]
        assert item["is_readable"] is False
        page = Client()
        page.force_login(alice)
        assert "cannot be decrypted" in page.get("/settings/secrets").content.decode()
        with pytest.raises(custom_secrets.UnreadableSecret, match="BROKEN"):
            custom_secrets.use_secret(
                user_id=alice.pk,
                organization_id=alice.personal_organization.pk,
                conversation_id=running.pk,
                name="BROKEN",
            )
        assert not CustomSecretUse.objects.exists()
        # Entering the value again repairs it.
        custom_secrets.change_secret(secret=broken, value="Sec-new-value")
        assert api.get("/api/v1/secrets").json()["items"][0]["is_readable"] is True

    def test_token_of_a_git_host_and_settings_are_skipped(self, alice, running, sealed, api):
        place = {"user": alice, "organization": alice.personal_organization}
        provider_tokens.set_provider_token(**place, provider="github", token="ghp_Sec1")
        user_settings.change_settings(**place, values={"search_api_key": "Sec-search"})
        ProviderToken.objects.update(sealed_token=sealed)
        UserSettings.objects.update(sealed_secrets=sealed)
        redaction.clear_cache()

        assert redaction.build_payload_redactor(running.pk) is None
        assert api.get("/api/v1/settings").json()["values"]["search_api_key"] is None
        assert api.post("/api/v1/conversations", {"message": "x"}, format="json").status_code == 201
        page = Client()
        page.force_login(alice)
        for path in ("/settings/git-hosts", "/settings/agent", "/api/v1/provider-tokens"):
            assert page.get(path).status_code == 200
        with pytest.raises(crypto.Undecryptable) as refusal:
            provider_tokens.use_token(
                user_id=alice.pk,
                organization_id=alice.personal_organization.pk,
                provider="github",
            )
        assert (refusal.value.status, refusal.value.code) == (409, "unreadable-secret")
        assert "sealed_token" not in refusal.value.detail


class TestOtherValues:
    """All keys that a sandbox has, or that an error of a model server may quote, are hidden, not only custom secrets."""

    MCP: ClassVar = {
        "sse_servers": [{"url": "https://mcp.example/sse?token=Sec-query-0123", "api_key": "Sec-sse-0123"}],
        "shttp_servers": ["https://mcp.example/mcp"],
        "stdio_servers": [
            {
                "name": "files",
                "command": "serve",
                "args": ["--api-key", "Sec-option-01", "--password=Sec-option-02", "postgres://me:Sec-password-0@db.example/x"],
                "env": {"API_TOKEN": "Sec-env-0123", "MODE": "production", "X": "Sec-env-4567"},
            }
        ],
    }  # fmt: skip
    VALUES = (
        *("Sec-query-0123", "Sec-sse-0123", "Sec-password-0", "Sec-option-01", "Sec-option-02"),
        *("Sec-env-0123", "Sec-env-4567", "Sec-search-01", "ghp_Sec1", "Sec-model-key-01"),
    )

    @pytest.fixture
    def keys(self, alice, running):
        place = {"user": alice, "organization": alice.personal_organization}
        user_settings.change_settings(
            **place, values={"search_api_key": "Sec-search-01", "mcp_config": self.MCP}
        )
        provider_tokens.set_provider_token(**place, provider="github", token="ghp_Sec1")
        billing.save_model_access(
            **place, base_url="https://models.example/v1", model="m", api_key="Sec-model-key-01"
        )
        redaction.clear_cache()

    @pytest.mark.parametrize("value", VALUES)
    def test_value_is_hidden_in_events_titles_exports_and_errors(self, keys, running, alice, api, value):  # fmt: skip
        coded = base64.b64encode(f"user:{value}".encode()).decode()
        text = f"remote https://x-access-token:{value}@github.com/a, Basic {coded}"

        ingest(running, make_frame(0, text=text))
        services.post_message(conversation_id=running.pk, text=f"use {value}", message_id="m")
        services.rename(conversation_id=running.pk, title=f"use {value}")

        running.refresh_from_db()
        stored = [running.title, *running.events.values_list("payload", flat=True)]
        assert running.title == f"use {HIDDEN}"
        assert value not in " ".join(stored)
        assert coded[6:-4] not in " ".join(stored)
        # An export of a log from the time before the key was known.
        running.events.update(payload=json.dumps({"text": text}))
        response = api.get(f"/api/v1/conversations/{running.pk}/trajectory?format=json")
        exported = b"".join(response.streaming_content).decode()
        assert value not in exported
        assert coded[6:-4] not in exported
        failure = starts.StartFailed(f"The setup script failed: {text}")
        assert value not in start_tasks.describe(failure, running)

    def test_ordinary_values_of_variables_are_not_hidden(self, keys, running):
        ingest(running, make_frame(0, text="in production with postgres"))

        assert "in production with postgres" in running.events.get(engine_seq=0).payload

    def test_secrets_of_the_organizations_settings_are_hidden(self, alice, running):
        user_settings.change_organization_settings(
            organization=alice.personal_organization, values={"search_api_key": "Sec-shared-01"}
        )
        redaction.clear_cache()

        ingest(running, make_frame(0, text="key Sec-shared-01"))

        assert "Sec-shared-01" not in running.events.get(engine_seq=0).payload

    @pytest.mark.parametrize("together", [False, True])
    def test_tokens_of_this_server_are_hidden_without_any_secret(self, alice, running, together):
        started = services.create_conversation(user=alice, message="Hi")
        redaction.clear_cache()
        tokens = {
            "gateway": billing.issue_gateway_token(
                organization_id=running.organization_id,
                user_id=alice.pk,
                conversation_id=running.pk,
            ),
            "session": started.sandbox.session_key(),
            "secret": started.sandbox.secret_key(),
            "conversation": conversation_key(conversation=running, user=alice),
        }
        frames = [make_frame(seq, text=f"is {token}.") for seq, token in enumerate(tokens.values())]

        ingest(running, *frames, *([make_status_frame(len(tokens), "running")] if together else []))
        services.rename(conversation_id=running.pk, title=f"x {tokens['gateway']}")

        for seq in range(len(tokens)):
            payload = json.loads(running.events.get(engine_seq=seq).payload)
            assert payload["text"] == f"is {HIDDEN}."
        running.refresh_from_db()
        assert running.title == f"x {HIDDEN}"
        delta = {"item_id": "i", "kind": "text", "order": 0, "content": tokens["gateway"]}
        [sent] = StreamedText().redact(conversation_id=running.pk, deltas=[delta])
        assert sent["content"] == HIDDEN


def test_secret_of_many_lines_in_two_events_is_hidden_in_both(alice, running):
    key = "-----BEGIN KEY-----\n" + "\n".join("ABCDEFGHIJKLMNOP"[n:] * 4 for n in range(4)) + "\n"
    custom_secrets.create_secret(
        organization=alice.personal_organization, by=alice, name="PEM", value=key
    )
    redaction.clear_cache()
    middle = len(key) // 2 + 20

    ingest(running, make_frame(0, text=key[:middle]), make_frame(1, text=key[middle:]))

    for event in running.events.all():
        shown = json.loads(event.payload)["text"].replace(HIDDEN, "")
        # A line that is cut is hidden from 32 characters on.
        assert len(shown.strip()) < 32, shown
