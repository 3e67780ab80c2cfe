"""Execution of the actions that V0 clients send: messages, and changes of the agent's state.

V0 is OpenHands' older protocol. Each action calls one service.
"""

import re
from typing import Any, Final
from uuid import UUID, uuid4

from accounts.models import User
from accounts.roles import STOP
from compat.v0.values import as_dict, as_list, as_text
from conversations import services
from lib.problems import Problem

MESSAGE_LENGTH: Final = 200_000
IMAGES_MAX: Final = 8
IMAGE_LENGTH: Final = 2_000_000
"""Characters of an image's URL. A data URL holds the whole image in base64."""
_IMAGE: Final = re.compile(r"(?:https://|data:image/(?:png|jpeg|gif|webp);base64,)[\x21-\x7e]*")


class NotAnAction(Problem):
    """The client sent an action that only the agent may take, or a malformed message."""

    code = "not-an-action"
    sentence = "Only messages and changes of the agent's state can be sent here."


STOPS: Final = ("stopped", "paused")
"""The states with which clients stop the agent."""


def find_permission(event: Any) -> str:
    """Return the permission that a V0 action needs on the conversation."""
    event = as_dict(event)
    state = as_text(as_dict(event.get("args")).get("agent_state"))
    is_stop = event.get("action") == "change_agent_state" and state in STOPS
    return STOP if is_stop else "conversations.steer"


def execute(*, conversation_id: UUID, event: Any, by: User, asked_seq: int | None = None) -> None:
    """Execute a V0 action of a user: post a message, or change the agent's state.

    The caller has checked ``find_permission``. ``asked_seq`` is the ``seq`` of the last question that the client
    received from the agent, or None. Raise ``NotAnAction`` if clients may not send this action or if it is
    malformed. The called service may raise its own exceptions.
    """
    event = as_dict(event)
    args = as_dict(event.get("args"))
    if event.get("action") == "message":
        post_message(conversation_id=conversation_id, args=args, by=by)
    elif event.get("action") == "change_agent_state":
        change_agent_state(
            conversation_id=conversation_id,
            state=as_text(args.get("agent_state")),
            reason=as_text(args.get("thought")),
            asked_seq=asked_seq,
            by=by,
        )
    else:
        raise NotAnAction


def post_message(*, conversation_id: UUID, args: dict[str, Any], by: User) -> int:
    """Post the message in the ``args`` of a V0 action, and return its ``seq``.

    Raise ``NotAnAction`` if the message is empty or too long, or if its images are not valid.
    """
    content = as_text(args.get("content"))
    files = [url for url in as_list(args.get("file_urls")) if isinstance(url, str) and url]
    # Older clients misspell the field as ``images_urls``.
    images = validate_images(args.get("image_urls") or args.get("images_urls"))
    if files:
        content = f"{content}\n\nFiles in the workspace: {', '.join(files)}".strip()
    if not content.strip() and not images:
        raise NotAnAction("A message needs text or an image.")
    if len(content) > MESSAGE_LENGTH:
        raise NotAnAction(f"A message may have at most {MESSAGE_LENGTH:,} characters.")
    # V0 has no id for messages, so a message that is sent twice is posted twice.
    event = services.post_message(
        conversation_id=conversation_id, text=content, message_id=str(uuid4()), images=images, by=by
    )
    return event.seq


def validate_images(images: Any) -> list[str]:
    """Check the image URLs of a message and return them. Raise ``NotAnAction`` for too many or forbidden URLs."""
    urls = [url for url in as_list(images) if isinstance(url, str) and url]
    if len(urls) > IMAGES_MAX:
        raise NotAnAction(f"A message may have at most {IMAGES_MAX} images.")
    if not all(len(url) <= IMAGE_LENGTH and _IMAGE.fullmatch(url) for url in urls):
        raise NotAnAction(
            "Each image must be an https:// URL or a data URL of a PNG, JPEG, GIF or WebP image."
        )
    return urls


def change_agent_state(
    *,
    conversation_id: UUID,
    state: str,
    by: User,
    reason: str = "",
    asked_seq: int | None = None,
) -> None:
    """Stop or resume the agent, or answer the agent's open question.

    Raise ``NotWaiting`` if the agent has no open question, and ``NotAnAction`` if clients cannot request this state.
    """
    if state in STOPS:
        services.interrupt(conversation_id=conversation_id, by=by)
    elif state == "running":
        services.resume(conversation_id=conversation_id, by=by)
    elif state in ("user_confirmed", "user_rejected"):
        services.answer_confirmation(
            conversation_id=conversation_id,
            accept=state == "user_confirmed",
            reason=reason,
            asked_seq=asked_seq,
            by=by,
        )
    else:
        raise NotAnAction(
            "This state cannot be requested. "
            "Use `running`, `paused`, `stopped`, `user_confirmed` or `user_rejected`."
        )
