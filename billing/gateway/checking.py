"""Test a model server by a tiny real call."""

from billing.models import ModelAccess
from lib.problems import Problem


class NoModelAccess(Problem):
    """There is nothing to test: conversations use the demo model."""

    status = 409
    code = "no-model-access"
    sentence = "No model is set: conversations use the built-in demo model, which needs no test."


class ModelCheckFailed(Problem):
    """The model server did not answer a tiny call as it should; ``detail`` says what it did."""

    status = 502
    code = "model-check-failed"


def check_model_access(access: ModelAccess | None) -> str:
    """Make a tiny real call (a few tokens, which may cost) and return a sentence about its answer.

    Raises ``NoModelAccess`` and ``ModelCheckFailed``.
    """
    from billing.gateway import upstream

    if access is None:
        raise NoModelAccess
    try:
        return upstream.check(access)
    except upstream.UpstreamRefused as error:
        raise ModelCheckFailed(error.message) from error
