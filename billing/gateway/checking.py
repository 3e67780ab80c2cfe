"""The test of a model server with a short real call."""

from billing.gateway import upstream
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

    Raise ``NoModelAccess`` if ``access`` is None, and ``ModelCheckFailed`` if the call fails.
    """
    if access is None:
        raise NoModelAccess
    try:
        return upstream.check(access)
    except upstream.UpstreamRefused as error:
        raise ModelCheckFailed(error.message) from error
