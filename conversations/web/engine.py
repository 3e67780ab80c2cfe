"""The installation of the agent engine in words, for the home page."""

from typing import Any

from accounts.models import User
from lib import engine_state


def build_engine(user: User) -> dict[str, Any]:
    """Return the context of the template ``_engine.html``: ``engine`` is None if the engine is ready.

    The cause of a failure contains paths of the server's machine, so only staff sees it.
    """
    found = engine_state.status()
    if found.is_ready:
        return {"engine": None}
    progress = found.progress
    return {
        "engine": {
            "is_installing": found.is_installing,
            "words": str(progress) if progress else "",
            "percent": progress.percent if progress else None,
            "cause": found.detail if user.is_staff else "",
        }
    }
