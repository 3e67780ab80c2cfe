"""The list of models of a model server, the check for ``/v1``, and their texts on the page of the model."""

import pytest

from billing import services
from billing.gateway import checking, listing
from billing.models import ModelAccess
from tests.billing.conftest import UPSTREAM_KEY

UNREACHABLE = "http://127.0.0.1:1/v1"


def change(access, **fields):
    for name, value in fields.items():
        setattr(access, name, value)
    return access


class TestListModels:
    @pytest.mark.parametrize(
        ("body", "names"),
        [
            ({"data": [{"id": "a"}, {"id": "b"}, {"id": "a"}]}, ("a", "b")),
            ({"models": [{"name": "a:latest", "size": 1}]}, ("a:latest",)),
            ([{"id": "a"}], ("a",)),
            (["a", 7, None, "", "b\n", "x" * 201], ("a",)),
            ({"data": []}, ()),
        ],
    )
    def test_names_are_in_the_order_of_the_server(self, access, provider, body, names):
        provider.models = (200, body)

        found = listing.list_models(access)

        assert (found.names, found.reason) == (names, "")

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ((200, {"data": 1}), "the answer is not a list of models"),
            ((200, "no"), "the answer is not a list of models"),
            ((404, {}), "the server responded with status 404"),
            ((301, {}), "the server responded with status 301"),
        ],
    )
    def test_other_answer_has_a_reason(self, access, provider, answer, reason):
        provider.models = answer

        found = listing.list_models(access)

        assert (found.names, found.reason) == ((), reason)

    @pytest.mark.parametrize(
        ("base_url", "reason"),
        [
            (UNREACHABLE, "connection refused"),
            ("http://no-such-host.invalid/v1", "name or service not known"),
            ("http://169.254.169.254/v1", "169.254.169.254 is a reserved network address"),
        ],
    )
    def test_unreachable_server_has_the_address_and_the_reason(self, access, base_url, reason):
        found = listing.list_models(change(access, base_url=base_url))

        assert reason in found.reason.lower()
        assert f"{base_url}/models" in found.describe()
        assert UPSTREAM_KEY not in found.describe()

    def test_sentence_names_at_most_20_models(self):
        found = listing.Listing("http://a/v1/models", names=tuple(f"m{n}" for n in range(23)))

        assert found.describe().startswith("The server lists 23 models: m0, m1, ")
        assert found.describe().endswith(", m19 and 3 more.")


class TestSuggestBaseUrl:
    def test_url_without_v1_is_completed(self, access, provider):
        change(access, base_url=provider.base_url.removesuffix("/v1"))

        assert listing.suggest_base_url(access) == provider.base_url

    def test_server_that_asks_for_a_key_there_counts(self, access, provider):
        provider.models = (401, {"error": "key"})
        change(access, base_url=provider.base_url.removesuffix("/v1"))

        assert listing.suggest_base_url(access) == provider.base_url

    @pytest.mark.parametrize("path", ["/v1", "/v1beta/openai", "/v3"])
    def test_url_with_a_version_is_not_changed(self, access, provider, path):
        change(access, base_url=provider.base_url.removesuffix("/v1") + path)
        provider.models = (404, {})

        assert listing.suggest_base_url(access) == ""

    def test_other_path_without_an_api_is_not_changed(self, access, provider):
        change(access, base_url=f"{provider.base_url.removesuffix('/v1')}/proxy")

        assert listing.suggest_base_url(access) == ""


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"base_url": UNREACHABLE}, "base_url", [f"{UNREACHABLE}/chat/completions", "refused"]),
        ({"base_url": "{root}"}, "base_url", ["{root}/chat/completions", "at {root}/v1. Enter"]),
        ({"key": "another"}, "api_key", ["{root}/v1/chat/completions", "Incorrect API key"]),
        ({"raw": (404, "text/plain", b"")}, "model", ["status 404", "lists 1 model: scripted."]),
    ],
)
def test_failed_test_names_the_address_the_reason_and_the_field(
    access, provider, changes, field, words
):
    root = provider.base_url.removesuffix("/v1")
    if "base_url" in changes:
        change(access, base_url=changes["base_url"].format(root=root))
    provider.raw = changes.get("raw")
    provider.api_key = changes.get("key", UPSTREAM_KEY)

    with pytest.raises(checking.ModelCheckFailed) as failed:
        checking.check_model_access(access)

    assert failed.value.extra == {"field": field}
    for part in words:
        assert part.format(root=root) in failed.value.detail
    assert UPSTREAM_KEY not in failed.value.detail


@pytest.mark.parametrize(
    ("pasted", "kept"),
    [
        ("https://m.example/v1/chat/completions", "https://m.example/v1"),
        ("https://m.example/v1/chat/completions/", "https://m.example/v1"),
        ("https://m.example/V1/Chat/Completions", "https://m.example/V1"),
        ("https://m.example/chat/completions", "https://m.example"),
        ("https://m.example/v1/models", "https://m.example/v1"),
        ("https://m.example/v1/completions", "https://m.example/v1"),
        ("https://m.example/v1/responses", "https://m.example/v1"),
        ("https://m.example/v1/messages", "https://m.example/v1"),
        ("https://m.example/v1/embeddings/", "https://m.example/v1"),
        ("https://m.example/models", "https://m.example/models"),
    ],
)
def test_pasted_endpoint_becomes_the_url_of_the_api(alice, pasted, kept):
    access = services.save_model_access(
        organization=alice.personal_organization, user=alice, base_url=pasted, model="m"
    )

    assert access.base_url == kept


class TestPage:
    @pytest.fixture
    def page(self, client, alice):
        client.force_login(alice)
        return client

    def post(self, page, base_url, model="scripted", **fields):
        data = {"base_url": base_url, "model": model, "api_key": UPSTREAM_KEY} | fields
        return page.post("/settings/model", data, follow=True).text

    def test_saving_lists_the_models(self, page, provider):
        text = self.post(page, provider.base_url)

        assert "Saved. " in text
        assert "The server lists 1 model: scripted." in text

    def test_saving_a_model_that_is_not_listed_warns(self, page, provider):
        assert "“other” is not listed. The server lists 1 model: scripted." in self.post(
            page, provider.base_url, model="other"
        )

    def test_saving_an_address_without_v1_warns_with_the_right_one(self, page, provider):
        text = self.post(page, provider.base_url.removesuffix("/v1"))

        assert f"The server has its API at {provider.base_url}. Enter this URL." in text

    def test_saving_an_unreachable_server_warns_with_address_and_reason(self, page):
        text = self.post(page, UNREACHABLE)

        assert f"The list of models at {UNREACHABLE}/models cannot be read: connection" in text
        assert ModelAccess.objects.exists()

    def test_failed_test_stands_at_its_field_and_offers_the_models(self, page, provider):
        provider.raw = (404, "text/plain", b"")

        text = self.post(page, provider.base_url, model="other", intent="test")

        assert '<p class="field-error" id="modelaccess-model_error">The test call to' in text
        assert '<option value="scripted">' in text
        assert UPSTREAM_KEY not in text
