"""The test of a model server with a short real call."""

from billing.gateway import listing, upstream
from billing.models import ModelAccess
from lib.problems import Problem


class NoModelAccess(Problem):
    """There is no model server to test because conversations use the demo model."""

    status = 409
    code = "no-model-access"
    sentence = (
        "No model server is set. Conversations use the built-in demo model, which needs no test."
    )


class ModelCheckFailed(Problem):
    """The model server failed the test call; ``detail`` describes the failure."""

    status = 502
    code = "model-check-failed"


def check_model_access(access: ModelAccess | None) -> str:
    """Send a short request to the model server; return a sentence about the response. The request can cost money.

    Raise ``NoModelAccess`` if ``access`` is None, and ``ModelCheckFailed`` if the call fails. Its ``detail`` names the
    URL and the reason, and ``extra["field"]`` the setting that is most likely wrong: ``base_url``, ``model`` or
    ``api_key``.
    """
    if access is None:
        raise NoModelAccess
    try:
        return upstream.check(access)
    except upstream.UpstreamRefused as error:
        raise _explain(access, error) from error


def _explain(access: ModelAccess, error: upstream.UpstreamRefused) -> ModelCheckFailed:
    """Return the failure of a test call with its URL, its reason and what to change."""
    url = f"{access.base_url.rstrip('/')}/chat/completions"
    if error.code in {"upstream_unreachable", "upstream_disconnected", "upstream_address_refused"}:
        reason = listing.explain(error.__cause__ or error)
        detail = f"The test call to {url} failed: {reason}. {error.message}"
        return ModelCheckFailed(detail, field="base_url")
    message = error.message if error.message.endswith((".", "!", "?")) else f"{error.message}."
    detail = f"The test call to {url} failed: {message}"
    if error.status in {401, 403}:
        return ModelCheckFailed(detail, field="api_key")
    if better := listing.suggest_base_url(access):
        detail += f" The server has its API at {better}. Enter this URL."
        return ModelCheckFailed(detail, field="base_url")
    found = listing.list_models(access)
    if found.names and access.model not in found.names:
        return ModelCheckFailed(f"{detail} {found.describe()}", field="model")
    return ModelCheckFailed(detail)
