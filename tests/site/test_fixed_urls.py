"""The memory of the handlers for URLs without variable parts."""

from types import ModuleType
from uuid import uuid4

import pytest
from django.http import Http404, HttpResponse
from django.test import RequestFactory
from django.urls import clear_url_caches, get_resolver, include, path, re_path

from openhands_site.serving.charsets import ThreadHandler


def first(request, **kwargs):
    return HttpResponse(b"first")


def second(request):
    return HttpResponse(b"second")


@pytest.fixture
def known(settings, monkeypatch):
    """The memory of a small URL configuration."""
    urls = ModuleType("small_urls")
    nested = [path("fixed", first, name="fixed"), path("<str:name>", first)]
    urls.urlpatterns = [path("api/", include(nested)), re_path(r"^files/", second)]
    monkeypatch.setitem(__import__("sys").modules, "small_urls", urls)
    settings.ROOT_URLCONF = "small_urls"
    return lambda: vars(get_resolver()).get("fixed_urls", {})


def resolve(url, **attributes):
    request = RequestFactory().get(url)
    vars(request).update(attributes)
    return ThreadHandler().resolve_request(request), request


def test_fixed_url_is_found_again_without_its_patterns(known, monkeypatch):
    match, _ = resolve("/api/fixed")
    assert list(known()) == ["/api/fixed"]
    monkeypatch.setattr(type(get_resolver()), "resolve", None)  # a call would fail

    again, request = resolve("/api/fixed")

    assert again is match
    assert request.resolver_match is match
    assert (match.func, match.view_name, match.kwargs) == (first, "fixed", {})


@pytest.mark.parametrize("url", ["/api/other", "/api/%3Cstr:name%3E", "/files/", "/files/a/b"])
def test_url_with_a_variable_part_is_not_remembered(known, url):
    for number in range(3):
        resolve(url + str(number) * number)

    assert known() == {}


def test_unknown_url_is_not_remembered_and_not_found(known):
    for _ in range(2):
        with pytest.raises(Http404):
            resolve("/nothing")

    assert known() == {}


def test_request_with_its_own_url_configuration_ignores_the_memory(known, monkeypatch):
    resolve("/api/fixed")
    own = ModuleType("own_urls")
    own.urlpatterns = [path("api/fixed", second)]
    monkeypatch.setitem(__import__("sys").modules, "own_urls", own)

    match, _ = resolve("/api/fixed", urlconf="own_urls")

    assert match.func is second


def test_another_url_configuration_has_its_own_memory(known, settings, monkeypatch):
    resolve("/api/fixed")
    own = ModuleType("own_urls")
    own.urlpatterns = [path("api/fixed", second)]
    monkeypatch.setitem(__import__("sys").modules, "own_urls", own)
    settings.ROOT_URLCONF = "own_urls"
    clear_url_caches()

    match, _ = resolve("/api/fixed")

    assert match.func is second


def test_each_fixed_url_of_this_server_has_the_view_that_its_patterns_find():
    conversation = f"/api/v1/conversations/{uuid4()}"
    for url in ("/api/v1/settings", "/api/v1/users/me", "/api/v1/conversations", conversation):
        for _ in range(2):
            match, _ = resolve(url)
            plain = get_resolver().resolve(url)
            assert (match.route, match.kwargs) == (plain.route, plain.kwargs)
            assert match.func is plain.func
