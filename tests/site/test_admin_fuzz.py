"""No request to the admin site is answered with a server error, whatever its filters, ids and forms contain."""

from urllib.parse import quote

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import models
from django.test import Client
from django.urls import reverse

from accounts.models import Membership, User
from tests.audit.test_desk_writes import make_rows
from tests.conftest import key_client
from tests.factories import billing, conversations
from tests.factories.accounts import UserFactory
from tests.fakes.stack import figure
from tests.odd_requests import SHARE
from tests.odd_traffic.choice import choose

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
HUGE = "9" * 400
VALUES = (
    "abc", "", "-1", "99999", HUGE, "9223372036854775808", "x" * 5_000, "(", "*", "[", "\\", "(a+)+$", "a,b", ",", "None", "null",
    "true", "1.5", "1e400", "nan", "2020-13-45", "99999-01-01", "0000-00-00", "2020-01-01T99:99", "infinity",
    "00000000-0000-0000-0000-000000000000", "{}", '{"a": 1}', "'", '"', "%", "_", ";", "\u202e", "\x1b[31m", "\n",
)  # fmt: skip
RAW_VALUES = ("%00", "%ed%a0%80", "%ff%fe", "%f0%9f%98%80", "%", "%zz", "%u0000", "%c0%80", "+")
"""Values that stand in the URL as they are: NUL, a lone surrogate, bytes that are not UTF-8, broken escapes."""
LOOKUPS = (
    "exact", "iexact", "gte", "lt", "in", "range", "isnull", "regex", "iregex", "contains", "startswith", "year",
    "date", "week_day", "hour", "time", "quarter", "a__b", "has_key", "contained_by", "len", "0", "pk", "exact__exact",
    "year__gte", "unknown", "__", "search", "trigram_similar", "overlap",
)  # fmt: skip
GENERAL = (
    *("p=-1", "p=abc", f"p={HUGE}", "p=0", "p=1.5", "p=", "o=99", "o=-99", "o=abc", "o=1.2.3.-4", f"o={HUGE}", "o="),
    *("e=1", "e=abc", "all=", "all=1", "_facets=True", "_facets=x", "_popup=1", "_popup=x", "_changelist_filters=%00"),
    *("_changelist_filters=q%3D%26o%3D99", "_to_field=password", "_to_field=id", "_to_field=abc", "_to_field="),
    *("_to_field=%00", "_popup=1&_to_field=email", "q=", "_source_model=x.y", "_direction=%ff"),
    *("created_at__year=99999", "created_at__year=-1", "created_at__year=abc", "created_at__month=13"),
    *("created_at__year=2020&created_at__month=2&created_at__day=31", "created_at__day=0", f"created_at__year={HUGE}"),
    *("created_at__year=2020&created_at__month=99", "created_at__gte=x&created_at__lt=y", "id__exact=abc", "pk=abc"),
    *("pk__in=1,abc", "id__in=", "id__isnull=abc", "x=1", "__=1", "=1", "&&&", "a" * 3_000, "?", "q=a&q=b&p=1&p=2"),
    *("user__id__exact=abc", "organization__id__exact=abc", "conversation__id__exact=abc", "conversation__exact=x"),
    *("user__password__startswith=a", "logentry__id=1", "groups__id__exact=abc", "status__exact=%00", "_saveasnew=1"),
    *(f"q={quote('a ' * 2_000)}", f"q={'%22' * 99}", f"{'q=x&' * 500}"),
)  # fmt: skip
IDS = (
    "abc", "-1", "0", "99999", HUGE, "9223372036854775808", "None", "(", "'", "1.5", "_", "__", "_5F", "_ZZ", "_00", "_2F", "_ed_a0_80",
    "%ed%a0%80", "%ff", "%00", "_ff", "a" * 3_000, "00000000-0000-0000-0000-00000000000", "{}", "../1", "add", "change", "%0a",
    "%1b%5b31m", "1%2Fchange", "_x", "_", "%F0%9F%98%80", "00000000-0000-0000-0000-000000000000",
)  # fmt: skip
ALLOWED = {200, 301, 302, 400, 403, 404, 405, 411}


@pytest.fixture
def desk(db):
    client = Client(raise_request_exception=False)
    client.staff = UserFactory(is_staff=True, is_superuser=True)
    client.force_login(client.staff)
    return client


@pytest.fixture
def rows(alice):
    """Rows of most models, so that pages have something to show."""
    make_rows(alice)
    for factory in (
        conversations.EventFactory, conversations.OutgoingMessageFactory, conversations.StartTaskFactory,
        conversations.LeaseFactory, conversations.SandboxFactory, conversations.EgressDecisionFactory,
        conversations.EgressPolicyFactory, conversations.HostRuleFactory, billing.ModelAccessFactory,
        billing.GatewayTokenFactory, billing.ModelCallFactory, billing.ConversationUsageFactory,
    ):  # fmt: skip
        factory()


def url(model, page, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def list_queries(model):
    """Return the query strings for a model's list: general ones, and lookups of each column with odd values."""
    encoded = [quote(value, safe="") for value in VALUES] + list(RAW_VALUES)
    queries = [*GENERAL, *(f"q={value}" for value in encoded)]
    for number, field in enumerate(model._meta.concrete_fields):
        for position, lookup in enumerate(LOOKUPS):
            odd = encoded[(number * 7 + position * 3) % len(encoded)]
            queries += [f"{field.name}__{lookup}={value}" for value in (odd, "abc")]
        queries += [f"{field.name}__exact={value}" for value in encoded]
        if isinstance(field, models.DateTimeField):
            queries += [f"{field.name}__year={year}" for year in ("99999", "0", "-1", HUGE)]
        for other in field.related_model._meta.concrete_fields if field.related_model else ():
            queries += [f"{field.name}__{other.name}__{x}=%28" for x in ("exact", "regex", "gte")]
    return list(dict.fromkeys(queries))


def list_requests(model):
    """Return ``(method, path, form)`` for all pages of a model."""
    listing, add = url(model, "changelist"), url(model, "add")
    requests = [("get", f"{listing}?{query}", None) for query in list_queries(model)]
    forms = build_forms(model)
    for page in ("change", "delete", "history", ""):
        for pk in IDS:
            path = f"{listing}{pk}/{page}/" if page else f"{listing}{pk}"
            requests.append(("get", path, None))
            if page in ("change", "delete"):
                requests.append(("post", path, forms[len(requests) % len(forms)]))
    row = model._default_manager.order_by("pk").last()
    own = [url(model, page, row.pk) for page in ("change", "delete", "history")] if row else []
    for path in (listing, add, *own):
        requests += [("post", path, form) for form in forms]
        requests += [("post", f"{path}?{query}", forms[0]) for query in ("_popup=1", "_to_field=password", "_to_field=%00", "e=1", "id__exact=abc", "created_at__year=99999")]  # fmt: skip
        requests += [("get", f"{path}?{query}", None) for query in GENERAL[:40]]
    return requests


def build_forms(model):
    page = admin.site._registry[model]
    actions = [action if isinstance(action, str) else action.__name__ for action in page.actions]
    odd = ["abc", "", "\ud800".encode("utf-8", "surrogatepass"), "\0", HUGE, "-1", "[" * 2_000, '{"a": "\\ud800"}', '["\\u0000"]', "NaN", "\x1b[31m", "1e999", "x" * 70_000]  # fmt: skip
    names = [field.name for field in model._meta.get_fields()]
    inline = "memberships"
    forms = [
        {},
        {"action": "nonsense"},
        {"post": "yes"},
        {"reading_reason": b"\xed\xa0\x80"},
        {"reading_reason": "\0"},
    ]
    forms += [dict.fromkeys(names, value) | {"reason": value} for value in odd]
    forms += [
        {f"{inline}-TOTAL_FORMS": value, f"{inline}-INITIAL_FORMS": value, f"{inline}-0-id": value,
         f"{inline}-0-user": value, f"{inline}-0-role": value, "name": "x"}
        for value in ("abc", "", "-1", "1", "1000", HUGE, "\0")
    ]  # fmt: skip
    for action in (*actions, "delete_selected", "abc", "\0", ""):
        forms += [
            {"action": action, "_selected_action": pk, "index": index, "select_across": across}
            for pk, index, across in (("abc", "0", "0"), (HUGE, "99", "abc"), ("\0", "abc", "1"), ("", "-1", ""),
                                      ("00000000-0000-0000-0000-000000000000", HUGE, "0"))
        ]  # fmt: skip
    return forms


def send(client, method, path, form):
    return client.get(path) if method == "get" else client.post(path, form)


def find_errors(client, requests):
    errors = []
    for method, path, form in requests:
        response = send(client, method, path, form)
        # An action on all sessions or users also ends the session of this client.
        if response.headers.get("Location", "").startswith("/admin/login/"):
            client.force_login(client.staff)
            response = send(client, method, path, form)
            assert not response.headers.get("Location", "").startswith("/admin/login/"), path
        if response.status_code not in ALLOWED:
            errors.append(f"{response.status_code} {method} {path[:150]} {str(form)[:150]}")
    return errors


SITE_PATHS = [
    *(f"/admin/r/{a}/{b}/" for a in ("1", "abc", HUGE, "-1", "%00", "%ed%a0%80", "0") for b in ("abc", "1", HUGE, "%ff", "_00")),
    *(f"/admin/autocomplete/?app_label={a}&model_name={m}&field_name={f}&term={t}&page={p}"
      for a, m, f, t, p in (("accounts", "membership", "user", "%00", "1"), ("accounts", "membership", "user", "x", "abc"),
                            ("accounts", "membership", "user", "x", HUGE), ("accounts", "membership", "user", "%ed%a0%80", "-1"),
                            ("x", "y", "z", "", ""), ("accounts", "user", "password", "a", "1"), ("%00", "", "", "", ""),
                            ("accounts", "membership", "nonsense", "", "1"), ("accounts", "membership", "id", "", "1"),
                            ("accounts", "membership", "organization", "(", "0"))),
    "/admin/autocomplete/", "/admin/autocomplete/?app_label=accounts", "/admin/jsi18n/", "/admin/jsi18n/?language=%00",
    "/admin/jsi18n/?language=../../x", "/admin/?next=%00", "/admin/login/?next=%ed%a0%80", "/admin/login/?next=//x", "/admin/x%0ay/",
    "/admin/accounts/", "/admin/abc/", "/admin/%ed%a0%80/", "/admin/accounts/user/abc/password/", "/admin/nodes", "/admin/nodes?x=%ff",
    "/admin/password_change/", "/admin/password_change/done/", "/admin/password_reset/", "/admin/logout/",
]  # fmt: skip


def test_pages_of_the_site_give_no_server_error(desk, rows):
    requests = [("get", path, None) for path in SITE_PATHS if path != "/admin/logout/"]
    assert find_errors(desk, requests) == []


@pytest.mark.parametrize(
    "form",
    [{}, {"username": "\0", "password": "x"}, {"username": b"\xed\xa0\x80", "password": b"\xed\xa0\x80"},
     {"username": "x" * 100_000, "password": "y" * 100_000}, {"username": "a@b", "password": "\0", "next": "\0"}],
)  # fmt: skip
def test_sign_in_form_gives_no_server_error(db, form):
    client = Client(raise_request_exception=False)
    assert client.post("/admin/login/?next=%ff", form).status_code in ALLOWED | {429}


TELLING = (
    "created_at__year=99999", "created_at__gte=x", "id__exact=abc", "p=-1", "o=99", "q=%00", "q=%ed%a0%80", "e=1", "pk__in=1,abc",
    f"id__exact={HUGE}", "created_at__year=2020&created_at__month=2&created_at__day=31", "_to_field=password", "_facets=True",
    "organization__id__exact=abc", "_popup=x", "id__regex=(", "user__email__regex=(", "id__isnull=abc",
)  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_telling_requests_give_no_server_error(desk, rows, model):
    """The requests that failed in the past. ``test_generated_requests_give_no_server_error`` sends more."""
    listing = url(model, "changelist")
    requests = [("get", f"{listing}?{query}", None) for query in TELLING]
    requests += [
        ("get", f"{listing}{pk}/change/", None) for pk in ("abc", HUGE, "%ed%a0%80", "_00")
    ]
    row = model._default_manager.order_by("pk").last()
    own = [url(model, page, row.pk) for page in ("change", "delete", "history")] if row else []
    requests += [
        ("get", f"{path}?{query}", None) for path in own for query in ("_to_field=", "e=1")
    ]
    requests += [("post", f"{listing}?id__exact=abc", {"action": "x", "_selected_action": "abc"})]
    requests += [
        ("post", listing, {"action": action if isinstance(action, str) else action.__name__, "_selected_action": pk, "reason": "x"})
        for action in (*admin.site._registry[model].actions, "delete_selected")
        for pk in ("abc", HUGE)
    ]  # fmt: skip

    assert find_errors(desk, requests) == []


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_generated_requests_give_no_server_error(desk, rows, model):
    """Send a tenth of the requests, or the share that ``ODD_SHARE`` says."""
    requests = choose(list_requests(model), SHARE or 0.1)
    errors = find_errors(desk, requests)
    figure("admin fuzz", model=model._meta.label, requests=len(requests), errors=len(errors))

    assert errors == []


def test_refused_filter_is_explained_on_a_page(desk, rows):
    page = desk.get("/admin/accounts/user/?created_at__year=99999")

    assert page.status_code == 400
    assert "contains a value that cannot be processed" in page.text


def test_error_of_the_server_without_a_query_stays_a_server_error(desk, monkeypatch):
    """The guard must not hide errors that no value of the client caused."""

    def fail(*_):
        raise AttributeError("a defect")

    monkeypatch.setattr(admin.site._registry[User], "get_queryset", fail)
    assert desk.get("/admin/accounts/user/").status_code == 500


def test_refused_request_leaves_no_transaction_behind(desk, rows, alice):
    desk.get("/admin/accounts/user/?created_at__year=99999")

    assert key_client(alice).get("/api/v1/users/me").status_code == 200
    assert Membership.objects.exists()
    assert Permission.objects.exists()
