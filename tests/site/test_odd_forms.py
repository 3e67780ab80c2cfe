"""No form and no page outside the admin site answers an odd value of any client with a server error.

Each field of each form is replaced in turn by the values of ``tests/odd_values.py``, in multipart and URL-encoded
bodies, as a text and as a file, by the owner, by another member and by an anonymous client. Every page is opened with
odd ids and queries. CONTRIBUTING.md says how to send all of them.
"""

import re

import pytest
from django.core.cache import cache

from tests import odd_values as odd
from tests.architecture.routes import list_http_routes
from tests.fakes.stack import figure
from tests.odd_requests import SHARE, VALUES, Odd, Sender, Tally, rotate, sample
from tests.site.test_page_forms import FORMS, world

__all__ = ["world"]
pytestmark = pytest.mark.filterwarnings("ignore")
MULTIPART = f"multipart/form-data; boundary={odd.BOUNDARY}"
URLENCODED = "application/x-www-form-urlencoded"
MORE_FORMS = {
    "sharing": ("/conversations/{conversation}/details", {"intent": "sharing", "circle": "steer", "lends_personal": "on"}),
    "host": ("/conversations/{conversation}/details", {"intent": "host", "host": "x.example", "answer": "allow"}),
    "remove host": ("/conversations/{conversation}/details", {"intent": "unrule", "host": "x.example"}),
    "sandboxes": ("/settings/sandboxes", {"profile": "list", "hosts": "x.example\n*.y.example"}),
    "model of an organization": ("/settings/model/{team}", {"base_url": "https://models.example.com/v1", "model": "m", "api_key": "k", "remove_key": "on", "prompt_price": "1.5", "completion_price": "1", "cached_price": "0", "intent": "save"}),
    "demo model": ("/settings/model", {"intent": "demo"}),
    "logout token": ("/oidc/acme/back-channel-logout", {"logout_token": "a.b.c"}),
    "disconnect": ("/settings/sign-in/acme/disconnect", {"a": "b"}),
    "connect": ("/settings/sign-in/acme/connect", {"next": "/settings"}),
    "sign-in at a provider": ("/oidc/acme/sign-in", {"next": "/settings"}),
    "revoke key": ("/settings/api-keys/{team}/revoke", {"children": "on"}),
    "switch": ("/settings/organizations/{team}/switch", {"a": "b"}),
    "leave": ("/settings/organizations/{team}/leave", {"a": "b"}),
    "invitation": ("/invitations/x", {"a": "b"}),
    "e-mail link": ("/settings/email/x", {"a": "b"}),
    "sign-out": ("/sign-out", {"next": "/"}),
    **{name: (f"/conversations/{{conversation}}/{name}", {"next": "/"}) for name in ("stop", "resume", "fork", "archive", "unarchive", "delete")},
}  # fmt: skip
"""Forms that ``tests/site/test_page_forms.py`` does not have."""
ALL_FORMS = FORMS | MORE_FORMS
INTENDED = (
    ("^/ready", ""),  # no worker runs in these tests
    ("^/settings/git-hosts", ""),  # a Git host that cannot be reached
    ("^/(oidc|settings/sign-in)/acme/", ""),  # an identity provider that cannot be reached
)
"""Paths and codes of intended responses with a status over 500. Pages have no code."""
QUERIES = (
    "q", "tag", "archived", "cursor", "after", "before", "next", "user_code", "code", "state", "error", "error_description", "example", "plain",
    "part", "organization", "redirect_url", "page", "intent", "iss", "session_state", "lang",
)  # fmt: skip
"""Names of parameters that pages read."""


def encode(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def write_multipart(data, file: str = "") -> bytes:
    """Return a form as a multipart body, with the field ``file`` as a file."""
    parts = []
    for field, values in data.items():
        for value in values if isinstance(values, list) else [values]:
            named = odd.write_file_part(field, "a.txt", encode(value)) if field == file else (
                f'--{odd.BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n'.encode() + encode(value) + b"\r\n"
            )  # fmt: skip
            parts.append(named)
    return b"".join(parts) + f"--{odd.BOUNDARY}--\r\n".encode()


def write_urlencoded(data) -> bytes:
    return "&".join(
        f"{field}={odd.to_query(value)}"
        for field, values in data.items()
        for value in (values if isinstance(values, list) else [values])
    ).encode()


def list_form_requests(name, names, number, values):
    """Yield the form ``name`` with each field replaced by odd values, and with odd bodies, headers and methods."""
    path, data = ALL_FORMS[name]
    path = path.format(**names)
    valid = {key: v if isinstance(v, list) else v.format(**names) for key, v in data.items()}
    surface = "forms"
    texts = [pair for pair in odd.texts().items() if values > 8 or values < 0 or odd.is_telling(pair[0])]  # fmt: skip
    whole = {"the form": write_urlencoded(valid), "no fields": b"", "one unknown field": b"x=1"}
    for why, body in whole.items():
        yield Odd(surface, "POST", path, f"{name}: {why}", body, URLENCODED)
    for at, field in enumerate(valid):
        for step, (what, value) in enumerate(rotate(texts, number * 3 + at, values)):
            changed = valid | {field: value}
            label = f"{name}, {field} is {what}"
            if step % 2:
                yield Odd(surface, "POST", path, label, write_multipart(changed), MULTIPART)
            else:
                yield Odd(surface, "POST", path, label, write_urlencoded(changed), URLENCODED)
        yield Odd(surface, "POST", path, f"{name}, {field} is a file", write_multipart(valid, field), MULTIPART)  # fmt: skip
        without = {key: value for key, value in valid.items() if key != field}
        yield Odd(surface, "POST", path, f"{name} without {field}", write_urlencoded(without), URLENCODED)  # fmt: skip
        yield Odd(surface, "POST", path, f"{name}, {field} twice", write_urlencoded(valid) + f"&{field}=x&{field}=".encode(), URLENCODED)  # fmt: skip
        raw = f"&{field}=%00%ff%ed%a0%80".encode()
        yield Odd(surface, "POST", path, f"{name}, {field} raw", write_urlencoded(without) + raw, URLENCODED)  # fmt: skip
    few = values if values < 0 else max(1, values)
    form = write_urlencoded(valid)
    for why, body in rotate(list(odd.multiparts(next(iter(valid))).items()), number, few):
        yield Odd(surface, "POST", path, f"{name}: {why}", body, MULTIPART)
    for why, body in rotate(list(odd.BODIES.items()), number, few):
        for kind in (URLENCODED, *rotate(list(odd.CONTENT_TYPES), number, 1 if few > 0 else -1)):
            yield Odd(surface, "POST", path, f"{name}: {why} as {kind}", body, kind)
    for header, value in rotate(list(odd.HEADERS), number, few):
        yield Odd(surface, "POST", path, f"{name}: {header}: {value}", form, URLENCODED, ((header, value),))  # fmt: skip
    for method in rotate(list(odd.METHODS), number, few):
        yield Odd(surface, method, path, f"{name}: method {method}", form, URLENCODED)


def list_page_requests(names, values):
    """Yield every page with odd values in its path and query."""
    paths = {r.path for r in list_http_routes() if not r.is_drf and "/llm/" not in r.path}
    paths |= {"/saas", "/static/x", "/favicon.ico", "/robots.txt", "/unknown"}
    ids = {"conversation_id": names["conversation"], "organization_id": names["team"], "session_id": names["session"], "key_id": names["team"], "slug": "acme", "action": "rename"}  # fmt: skip
    candidates = [(n, odd.to_query(v)) for n, v in odd.texts().items() if len(v) < 3_000]
    candidates = [pair for pair in candidates if values > 8 or values < 0 or odd.is_telling(pair[0])]  # fmt: skip
    candidates += list(odd.ESCAPES.items())
    for number, path in enumerate(sorted(paths)):
        parameters = re.findall(r"\{(\w+)\}", path)
        valid = re.sub(r"\{(\w+)\}", lambda found: str(ids.get(found[1], "x")), path)
        for at, parameter in enumerate(parameters):
            for what, value in rotate(candidates, number * 5 + at, values * 3):
                odd_path = path.replace(f"{{{parameter}}}", value or "%20")
                odd_path = re.sub(r"\{(\w+)\}", lambda found: str(ids.get(found[1], "x")), odd_path)
                yield Odd("pages", "GET", odd_path, f"{parameter} is {what}")
        for at, parameter in enumerate(QUERIES):
            for what, value in rotate(candidates, number * 7 + at, max(1, values // 2) if values > 0 else -1):  # fmt: skip
                yield Odd("pages", "GET", f"{valid}?{parameter}={value}", f"{parameter} is {what}")
        pair = "error=x&state=%ff" if number % 2 else "code=%ed%a0%80&state=a%00"
        yield Odd("pages", "GET", f"{valid}?{pair}", "two parameters")
        for query in rotate(list(odd.QUERIES), number, values):
            yield Odd("pages", "GET", f"{valid}?{query}", "query")
        for header, value in rotate(list(odd.HEADERS), number, values * 2):
            yield Odd("pages", "GET", valid, f"{header}: {value}", headers=((header, value),))
        for method in rotate(list(odd.METHODS), number, values):
            yield Odd("pages", method, valid, f"method {method}")


def send_odd(world, alice, bob, values, share) -> Tally:
    _, names = world
    tally = Tally(INTENDED)
    callers = {"owner": alice, "member": bob, "anonymous": None}
    for caller, user in callers.items():
        sender = Sender(tally, user=user)
        part = share if caller == "owner" else share / 4
        forms = (
            request._replace(surface=f"forms, {caller}")
            for number, name in enumerate(ALL_FORMS)
            for request in list_form_requests(name, names, number, values)
        )
        pages = (
            request._replace(surface=f"pages, {caller}")
            for request in list_page_requests(names, values)
        )
        sender.send_all(sample(forms, part))
        sender.send_all(sample(pages, part))
    return tally


@pytest.fixture(autouse=True)
def _without_limits(settings):
    settings.RATE_LIMITS = {}
    cache.clear()


@pytest.mark.timeout(900)
def test_a_few_odd_values_in_each_field_of_each_form(world, alice, bob):
    tally = send_odd(world, alice, bob, 1, 0.12)

    figure("odd values, forms and pages", requests=tally.requests, statuses=tally.statuses, server_errors=tally.server_errors, intended=tally.intended)  # fmt: skip
    assert not tally.kinds, tally.report()
    assert not tally.unreadable, tally.report()


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_odd_values_in_each_field_of_each_form(world, alice, bob):
    tally = send_odd(world, alice, bob, VALUES or 8, SHARE or 0.1)

    figure("odd values, forms and pages", requests=tally.requests, statuses=tally.statuses, server_errors=tally.server_errors, intended=tally.intended)  # fmt: skip
    assert not tally.kinds, tally.report()
    assert not tally.unreadable, tally.report()
