"""Every form of every page: an error stands at its field, screen readers find it, and the first one has the focus.

The forms are those of ``tests/site/test_page_forms.py``. The pages are parsed, so the tests see what a browser sees.
"""

import re
from html.parser import HTMLParser

import pytest

from conversations.models import Conversation
from tests.prepare import ROOT
from tests.site import test_page_forms as pages
from tests.site.test_page_forms import FORMS, select_client, world

__all__ = ["world"]

VOID = {"input", "br", "hr", "img", "link", "meta", "use"}
TEXT = "a\0b"
"""A text that no field accepts."""
SECRETS = {"password", "current", "new", "code", "api_key", "token", "value", "search_api_key"}
"""Fields whose values are never sent back."""
ACTIONS = {"rename", "feedback"}
"""Forms without a visible field on a page without JavaScript. Their errors are shown as a message."""
HIDDEN = {
    *{(name, "member") for name in ("role", "remove", "transfer")},
    ("role", "role"),  # one of many rows: the error stands above the list of members
    ("device", "organization"),
    ("revoke invitation", "invitation"),
    ("delete secret", "secret"),
    ("revoke", "share"),
    ("agent defaults", "version"),
    ("second factor", "act"),
    ("second factor", "code"),  # the page asks for the password first
    ("model", "intent"),
    ("device", "decision"),
    ("secret", "scope"),
    ("prompt", "idempotency_key"),
    ("message", "message_id"),
    ("answer", "accept"),
    ("answer", "asked_seq"),
}
"""Fields that users do not fill in. Their errors stand above the form."""
CASES = [
    (name, field)
    for name, (_, data) in FORMS.items()
    for field in data
    if name not in ACTIONS
    and (name, field) not in pages.SILENT
    and (name, field) not in HIDDEN
    and field != "intent"
]


class Page(HTMLParser):
    """The elements of a page in order, each as ``(tag, attributes, text)``."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def find(self, **attributes):
        """Return the elements that have all the attributes."""
        return [
            element
            for element in self.elements
            if all(element.get(name) == value for name, value in attributes.items())
        ]


def submit(world, user, form_name, **changes):
    """Submit a form with valid values, except for the changed fields."""
    browser, names = world
    path, data = FORMS[form_name]
    valid = {key: v if isinstance(v, list) else v.format(**names) for key, v in data.items()}
    client = select_client(form_name, browser, user)
    response = pages.send(client, path.format(**names), valid | changes)
    return response, Page(response.text), valid


@pytest.mark.parametrize(("name", "field"), CASES)
def test_error_stands_at_the_field_which_has_the_focus(world, alice, name, field):
    if name == "answer":  # otherwise the page has no question to answer
        waiting = Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION
        Conversation.objects.update(execution_status=waiting, status=Conversation.Status.RUNNING)

    response, page, valid = submit(world, alice, name, **{field: TEXT})

    assert response.status_code in {400, 422}
    controls = [control for control in page.find(name=field) if control.get("type") != "hidden"]
    assert controls, "the page has no such field"
    if controls[0].get("type") in {"radio", "checkbox"}:  # the group is marked, not each option
        (control,) = page.find(**{"aria-invalid": "true"})
    else:
        (control,) = [each for each in controls if each.get("aria-invalid") == "true"]
        (label,) = [each for each in page.find(**{"for": control["id"]}) if each["text"].strip()]
        assert "_" not in label["text"]
    described = [page.find(id=name) for name in control["aria-describedby"].split()]
    assert all(len(found) == 1 for found in described)
    error = described[-1][0]
    assert error["class"] == "field-error"
    assert error["text"].strip()
    assert not re.search(r"\b[a-z]+_[a-z_]+\b", error["text"])
    focused = [each for each in page.elements if "autofocus" in each]
    assert focused == [control]
    for other, value in valid.items():
        if other == field or other in SECRETS or isinstance(value, list):
            continue
        kept = [each for each in page.find(name=other) if each["tag"] in {"input", "textarea"}]
        for each in kept:
            if each.get("type") not in {"hidden", "radio", "checkbox"}:
                assert each.get("value", each["text"].strip()) == value
    assert [each for each in page.find(type="password") if each.get("value")] == []


def test_all_ids_of_pages_with_several_forms_are_unique(world, alice):
    for name in ("tags", "invite", "secret", "API key"):
        _, page, _ = submit(world, alice, name)
        ids = [each["id"] for each in page.elements if each.get("id")]
        assert len(ids) == len(set(ids)), name


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "agent settings",
            {"max_iterations": "0"},
            "“Maximum steps per run” must be a whole number from 1",
        ),
        (
            "agent settings",
            {"git_user_email": "nobody"},
            "Git author e-mail: enter an e-mail address.",
        ),
        ("agent defaults", {"max_iterations": "0"}, "“Maximum steps per run” must be a whole"),
        ("model", {"base_url": "models.example.com"}, "URL"),
        ("model", {"prompt_price": "cheap"}, "Enter the price in dollars"),
        ("secret", {"name": "a b"}, "Enter a name of up to 100 letters"),
        ("tags", {"tags": "x" * 60}, "Enter at most 20 tags"),
        ("API key", {"days": "0"}, "An API key can be valid for 1 to"),
        ("invite", {"days": "0"}, "“Valid for (days)” must be a whole number from 1"),
    ],
)
def test_error_uses_the_words_of_the_label(world, alice, name, changes, words):
    _, page, _ = submit(world, alice, name, **changes)

    (error,) = page.find(**{"class": "field-error"})
    assert words in error["text"]


def test_error_of_no_field_has_the_focus(world, alice):
    _, page, _ = submit(world, alice, "sign-in", password="wrong")

    (notice,) = page.find(**{"class": "notice error"})
    assert "autofocus" in notice
    assert page.find(**{"aria-invalid": "true"}) == []
    assert [each for each in page.elements if "autofocus" in each] == [notice]


RAW = re.compile(r"<(?:input|select|textarea)\b[^>]*>")
NOT_FIELDS = re.compile(r'type="(?:hidden|checkbox|radio)"| hidden>')
OTHERS = {
    "conversations/home.html": ['name="q"'],  # the search, for which every text is valid
    "conversations/conversation.html": ['name="text"'],  # sent by JavaScript
    "accounts/organization.html": ['name="role"'],  # one in each row of the members
    "accounts/device.html": ['name="organization"'],  # chosen from a list of the page's own
}
"""Controls that are no fields of a form with errors."""


def test_all_templates_draw_fields_with_the_field_tag():
    found = [
        (str(path.relative_to(ROOT / "templates")), tag)
        for path in sorted((ROOT / "templates").rglob("*.html"))
        if not path.is_relative_to(ROOT / "templates/admin")  # Django's forms draw their own errors
        for tag in RAW.findall(path.read_text())
        if not NOT_FIELDS.search(tag)
    ]

    assert [
        (path, tag) for path, tag in found if not any(part in tag for part in OTHERS.get(path, []))
    ] == []
