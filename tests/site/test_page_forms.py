"""All forms of all pages with text that cannot be stored: the page shows an error and is never a 500."""

import pytest
from django.core.cache import cache
from django.test import Client

from accounts import services
from accounts.models import IdentityProvider, Invitation, Membership, UserSession
from accounts.services import devices, invitations, organizations
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
    "revoke invitation": (
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
        "/conversations/{conversation}/message",
        {"text": "Go", "message_id": "01a20501-e2e2-732b-8f74-636424f8c9f2"},
    ),
    "answer": (
        "/conversations/{conversation}/answer",
        {"accept": "no", "reason": "r", "asked_seq": "1"},
    ),
    "rename": ("/conversations/{conversation}/rename", {"title": "T"}),
    "feedback": ("/conversations/{conversation}/feedback", {"seq": "1", "good": "yes"}),
    "tags": ("/conversations/{conversation}/details", {"intent": "tags", "tags": "a, b"}),
    "confirmation": (
        "/conversations/{conversation}/details",
        {"intent": "confirmation", "policy": "never", "analyzer": "llm"},
    ),
    "share": ("/conversations/{conversation}/details", {"intent": "share", "days": "7"}),
    "revoke": ("/conversations/{conversation}/details", {"intent": "revoke", "share": "{team}"}),
}
SILENT = {
    ("sign-in", "next"),
    ("second step", "next"),
    ("terms", "redirect_url"),  # an address outside this site is replaced
    ("end session", "everywhere"),  # a checkbox counts as ticked with any value
    ("agent defaults", "enforced"),
    ("agent settings", "field"),  # unknown names are dropped
}
"""Fields for which every value is valid."""
CASES = [(name, field) for name, (_, data) in FORMS.items() for field in data]


@pytest.fixture
def world(alice, bob, settings):
    """Create the rows that the paths and fields name; return Alice's client and the ids by placeholder."""
    settings.SIGN_IN_RATE = "1000/m"
    cache.clear()
    team = organizations.create_organization(user=alice, name="Team")
    Membership.objects.create(organization=team, user=bob)
    invitations.invite(organization=team, by=alice, role="member")
    IdentityProvider.objects.create(
        slug="acme", name="Acme", issuer="https://acme.example", client_id="c"
    )
    conversation = ConversationFactory(created_by=alice)
    EventFactory(conversation=conversation)
    browser = Client()
    browser.force_login(alice)
    return browser, {
        "team": team.pk,
        "bob": bob.pk,
        "invitation": Invitation.objects.get().pk,
        "conversation": conversation.pk,
        "session": UserSession.objects.get(user=alice).pk,
        "setup": services.create_setup_link(),
        "code": devices.start_device_sign_in(client_name="tool", scopes=[]).user_code,
    }


def select_client(name, browser, user):
    if name not in ANONYMOUS:
        return browser
    client = Client()
    if name == "second step":
        enrol(user)
        client.post("/sign-in", {"email": user.email, "password": PASSWORD})
    return client


def send(client, path, data):
    """Post a multipart form and return the page, after a redirect if there is one.

    The encoding ``unicode_escape`` can represent lone surrogates; UTF-8 cannot.
    """
    lines = []
    for field, values in data.items():
        for value in values if isinstance(values, list) else [values]:
            lines += ["--line", f'Content-Disposition: form-data; name="{field}"', ""]
            lines += [str(value).encode("unicode_escape").decode()]
    body = "\r\n".join([*lines, "--line--", ""])
    content_type = "multipart/form-data; boundary=line; charset=unicode_escape"
    response = client.generic("POST", path, body.encode(), content_type=content_type)
    return client.get(response.headers["Location"]) if response.status_code == 302 else response


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("name", "field"), CASES)
def test_text_that_cannot_be_stored_is_shown_as_a_form_error(world, alice, name, field, text):
    browser, names = world
    client = select_client(name, browser, alice)
    path, data = FORMS[name]
    path = path.format(**names)
    valid_data = {key: v if isinstance(v, list) else v.format(**names) for key, v in data.items()}

    response = send(client, path, valid_data | {field: TEXTS[text]})

    if (name, field) in SILENT:
        assert response.status_code == (422 if name == "second step" else 200)  # the code is wrong
    elif field == "intent" and name != "model":
        assert response.status_code == 404
    else:
        assert response.status_code in {200, 400, 422}
        assert '<p class="notice error"' in response.text or 'class="field-error"' in response.text
    assert "a\ufffdb" in response.text or TEXTS[text] not in response.text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/?q={}", 200), ("/?tag={}", 200), ("/?archived={}", 200), ("/device?user_code={}", 422)],
)
def test_query_with_a_lone_surrogate_is_no_server_error(world, path, status):
    browser, _ = world
    content_type = "text/plain; charset=unicode_escape"

    response = browser.get(path.format(r"a%5Cud800b"), headers={"Content-Type": content_type})

    assert response.status_code == status


@pytest.mark.parametrize(
    ("path", "data", "repeated", "hidden"),
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
            [
                'name="confirmation_mode" id="agentsettings-confirmation_mode" checked',
                'value="pattern" selected',
                'value="0"',
            ],
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
            "/conversations/{conversation}/details",
            {"intent": "tags", "tags": f"kept, {'x' * 60}"},
            ['value="kept, xxx'],
            [],
        ),
    ],
)
def test_rejected_form_repeats_its_input_without_secrets(world, path, data, repeated, hidden):
    browser, names = world

    response = browser.post(path.format(**names), data)

    assert response.status_code in {400, 422}
    for text in repeated:
        assert text in response.text
    for text in hidden:
        assert text not in response.text
