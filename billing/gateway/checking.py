"""The test of a model server by a small real call."""

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
    """Make a small real call, whose few tokens may cost money; return a sentence about the response.

    Raises ``NoModelAccess`` and ``ModelCheckFailed``.
    """
    from billing.gateway import upstream

    if access is None:
        raise NoModelAccess
    try:
        return upstream.check(access)
    except upstream.UpstreamRefused as error:
        raise ModelCheckFailed(error.message) from error
