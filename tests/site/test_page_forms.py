"""Every form of every page with text that cannot be stored: an error on the page, never a 500."""

import pytest
from django.core.cache import cache
from django.test import Client

from accounts import services
from accounts.models import IdentityProvider, Invitation, Membership, UserSession
from accounts.services import devices, organizations
from tests.accounts.second_factor import enrol
from tests.factories.conversations import ConversationFactory, EventFactory

PASSWORD = "correct horse battery"
TEXTS = {"NUL": "a\0b", "lone surrogate": "a\ud800b"}
ANONYMOUS = {"sign-in", "setup", "second step"}
FORMS = {
    "sign-in": (
        "/sign-in",
        {"email": "alice@example.com", "password": PASSWORD, "next": "/settings"},
    ),
    "setup": ("{setup}", {"email": "root@example.com", "name": "Root", "password": PASSWORD}),
    "second step": ("/sign-in/second-factor", {"code": "000000", "next": "/settings"}),
    "password": ("/settings", {"current": PASSWORD, "new": "another good one"}),
    "second factor": (
        "/settings/second-factor",
        {"act": "begin", "password": PASSWORD, "code": "000000"},
    ),
    "API key": (
        "/settings/api-keys",
        {"name": "k", "days": "1", "access": "custom", "scope": "account.view"},
    ),
    "device": (
        "/device",
        {"user_code": "{code}", "decision": "approve", "organization": "{team}"},
    ),
    "organization": ("/settings/organizations", {"name": "Team"}),
    "rename organization": ("/settings/organizations/{team}/rename", {"name": "Team"}),
    "invite": (
        "/settings/organizations/{team}/invite",
        {"email": "x@example.com", "role": "member", "days": "7", "max_uses": "1"},
    ),
    "role": ("/settings/organizations/{team}/role", {"member": "{bob}", "role": "viewer"}),
    "remove": ("/settings/organizations/{team}/remove", {"member": "{bob}"}),
    "transfer": ("/settings/organizations/{team}/transfer", {"member": "{bob}"}),
    "take back": (
        "/settings/organizations/{team}/take-back",
        {"invitation": "{invitation}"},
    ),
    "agent defaults": (
        "/settings/organizations/{team}/agents",
        {
            "version": "0",
            "confirmation_mode": "yes",
            "security_analyzer": "llm",
            "enable_default_condenser": "no",
            "max_iterations": "7",
            "condenser_max_size": "70",
            "search_api_key": "tvly-1",
            "enforced": "max_iterations",
        },
    ),
    "agent settings": (
        "/settings/agent",
        {
            "field": ["security_analyzer", "max_iterations", "git_user_name", "git_user_email"],
            "security_analyzer": "llm",
            "max_iterations": "7",
            "condenser_max_size": "70",
            "git_user_name": "A",
            "git_user_email": "a@example.com",
            "search_api_key": "tvly-1",
        },
    ),
    "secret": (
        "/settings/secrets",
        {"name": "TOKEN", "value": "v", "description": "d", "scope": "organization"},
    ),
    "delete secret": ("/settings/secrets", {"secret": "{team}"}),
    "model": (
        "/settings/model",
        {
            "base_url": "https://models.example.com/v1",
            "model": "m",
            "api_key": "sk-1",
            "prompt_price": "1",
            "completion_price": "1",
            "cached_price": "1",
            "intent": "save",
        },
    ),
    "Git host": ("/settings/git-hosts", {"token": "ghp_1", "host": "ghe.example.com"}),
    "end session": ("/settings/sessions/{session}/end", {"everywhere": "1"}),
    "terms": ("/accept-tos", {"redirect_url": "/settings"}),
    "prompt": (
        "/",
        {
            "message": "Go",
            "repository": "a/b",
            "policy": "never",
            "idempotency_key": "k",
        },
    ),
    "message": (
        "/conversations/{talk}/message",
        {"text": "Go", "message_id": "01a20501-e2e2-732b-8f74-636424f8c9f2"},
    ),
    "answer": (
        "/conversations/{talk}/answer",
        {"accept": "no", "reason": "r", "asked_seq": "1"},
    ),
    "rename": ("/conversations/{talk}/rename", {"title": "T"}),
    "feedback": ("/conversations/{talk}/feedback", {"seq": "1", "good": "yes"}),
    "tags": ("/conversations/{talk}/details", {"intent": "tags", "tags": "a, b"}),
    "confirmation": (
        "/conversations/{talk}/details",
        {"intent": "confirmation", "policy": "never", "analyzer": "llm"},
    ),
    "share": ("/conversations/{talk}/details", {"intent": "share", "days": "7"}),
    "revoke": ("/conversations/{talk}/details", {"intent": "revoke", "share": "{team}"}),
}
SILENT = {
    ("sign-in", "next"),
    ("second step", "next"),
    ("terms", "redirect_url"),  # confined to this site
    ("end session", "everywhere"),  # a tick, whatever its value
    ("agent defaults", "enforced"),
    ("agent settings", "field"),  # names that are no options are dropped
}
"""Fields that no value makes invalid."""
CASES = [(name, field) for name, (_, data) in FORMS.items() for field in data]


@pytest.fixture
def world(alice, bob, settings):
    """What paths and fields name."""
    settings.SIGN_IN_RATE = "1000/m"
    cache.clear()
    team = organizations.create_organization(user=alice, name="Team")
    Membership.objects.create(organization=team, user=bob)
    organizations.invite(organization=team, by=alice, role="member")
    IdentityProvider.objects.create(
        slug="acme", name="Acme", issuer="https://acme.example", client_id="c"
    )
    talk = ConversationFactory(created_by=alice)
    EventFactory(conversation=talk)
    browser = Client()
    browser.force_login(alice)
    return browser, {
        "team": team.pk,
        "bob": bob.pk,
        "invitation": Invitation.objects.get().pk,
        "talk": talk.pk,
        "session": UserSession.objects.get(user=alice).pk,
        "setup": services.create_setup_link(),
        "code": devices.start_device_sign_in(client_name="tool", scopes=[]).user_code,
    }


def client_for(name, browser, user):
    if name not in ANONYMOUS:
        return browser
    client = Client()
    if name == "second step":
        enrol(user)
        client.post("/sign-in", {"email": user.email, "password": PASSWORD})
    return client


def send(client, path, data):
    """Post as multipart in an encoding that has lone surrogates, which UTF-8 forms cannot carry."""
    lines = []
    for field, values in data.items():
        for value in values if isinstance(values, list) else [values]:
            lines += ["--line", f'Content-Disposition: form-data; name="{field}"', ""]
            lines += [str(value).encode("unicode_escape").decode()]
    body = "\r\n".join([*lines, "--line--", ""])
    kind = "multipart/form-data; boundary=line; charset=unicode_escape"
    answer = client.generic("POST", path, body.encode(), content_type=kind)
    return client.get(answer.headers["Location"]) if answer.status_code == 302 else answer


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("name", "field"), CASES)
def test_text_that_cannot_be_stored_is_an_error_of_the_form(world, alice, name, field, text):
    browser, names = world
    client = client_for(name, browser, alice)
    path, data = FORMS[name]
    path = path.format(**names)
    filled = {key: v if isinstance(v, list) else v.format(**names) for key, v in data.items()}

    answer = send(client, path, filled | {field: TEXTS[text]})

    if (name, field) in SILENT:
        assert answer.status_code == (422 if name == "second step" else 200)  # its code is wrong
    elif field == "intent" and name != "model":
        assert answer.status_code == 404
    else:
        assert answer.status_code in {200, 400, 422}
        assert '<p class="notice error"' in answer.text
    assert "a\ufffdb" in answer.text or TEXTS[text] not in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/?q={}", 200), ("/?tag={}", 200), ("/?archived={}", 200), ("/device?user_code={}", 422)],
)
def test_address_with_a_lone_surrogate_is_read(world, path, status):
    browser, _ = world
    kind = "text/plain; charset=unicode_escape"

    answer = browser.get(path.format(r"a%5Cud800b"), headers={"Content-Type": kind})

    assert answer.status_code == status


@pytest.mark.parametrize(
    ("path", "data", "kept", "forgotten"),
    [
        (
            "/settings/organizations/{team}/invite",
            {"email": "x@example.com", "role": "viewer", "days": "99", "max_uses": "4"},
            ['value="x@example.com"', 'value="viewer" selected', 'value="99"', 'value="4"'],
            [],
        ),
        (
            "/settings/agent",
            {
                "field": ["max_iterations", "confirmation_mode", "security_analyzer"],
                "confirmation_mode": "1",
                "security_analyzer": "pattern",
                "max_iterations": "0",
                "search_api_key": "tvly-Sec-1",
            },
            ['name="confirmation_mode" value="1" checked', 'value="pattern" selected', 'value="0"'],
            ["tvly-Sec-1"],
        ),
        (
            "/settings/secrets",
            {"name": "a b", "description": "Kept", "value": "Sec-1", "scope": "organization"},
            ['value="a b"', 'value="Kept"', 'value="organization" checked'],
            ["Sec-1"],
        ),
        (
            "/settings/git-hosts",
            {"token": "", "host": "ghe.example.com"},
            ['value="ghe.example.com"'],
            [],
        ),
        (
            "/conversations/{talk}/details",
            {"intent": "tags", "tags": f"kept, {'x' * 60}"},
            ['value="kept, xxx'],
            [],
        ),
    ],
)
def test_refused_form_keeps_what_was_typed_but_no_secrets(world, path, data, kept, forgotten):
    browser, names = world

    answer = browser.post(path.format(**names), data)

    assert answer.status_code in {400, 422}
    for text in kept:
        assert text in answer.text
    for text in forgotten:
        assert text not in answer.text
