"""What V0 clients do by sending an event: each is one call of a service."""

import re
from typing import Any, Final
from uuid import UUID, uuid4

from compat.v0.values import listing, mapping, text
from conversations import services
from lib.problems import Problem

MESSAGE_LENGTH: Final = 200_000
IMAGES: Final = 8
IMAGE_LENGTH: Final = 2_000_000
_IMAGE: Final = re.compile(r"(?:https://|data:image/(?:png|jpeg|gif|webp);base64,)[\x21-\x7e]*")


class NotAnAction(Problem):
    """Something that clients do not do here: the agent acts, people speak and steer."""

    code = "not-an-action"
    sentence = "Only messages and changes of the agent's state can be sent here."


def carry_out(*, conversation_id: UUID, event: Any, asked_seq: int | None = None) -> None:
    """Do what a V0 action says. ``asked_seq`` is the question that the sender was shown, if one was.

    Raises ``NotAnAction`` and whatever the service refuses with.
    """
    event = mapping(event)
    args = mapping(event.get("args"))
    if event.get("action") == "message":
        say(conversation_id=conversation_id, args=args)
    elif event.get("action") == "change_agent_state":
        change_state(
            conversation_id=conversation_id,
            state=text(args.get("agent_state")),
            reason=text(args.get("thought")),
            asked_seq=asked_seq,
        )
    else:
        raise NotAnAction


def say(*, conversation_id: UUID, args: dict[str, Any]) -> int:
    """Post a message of V0's shape; its seq."""
    said = text(args.get("content"))
    files = [url for url in listing(args.get("file_urls")) if isinstance(url, str) and url]
    pictures = checked_images(args.get("image_urls") or args.get("images_urls"))
    if files:
        said = f"{said}\n\nFiles in the workspace: {', '.join(files)}".strip()
    if not said.strip() and not pictures:
        raise NotAnAction("A message needs text or an image.")
    if len(said) > MESSAGE_LENGTH:
        raise NotAnAction(f"A message has at most {MESSAGE_LENGTH:,} characters.")
    event = services.post_message(
        conversation_id=conversation_id, text=said, message_id=str(uuid4()), images=pictures
    )
    return event.seq


def checked_images(images: Any) -> list[str]:
    """The images of a message. Raises ``NotAnAction`` for what is none."""
    found = [url for url in listing(images) if isinstance(url, str) and url]
    if len(found) > IMAGES:
        raise NotAnAction(f"A message has at most {IMAGES} images.")
    if not all(len(url) <= IMAGE_LENGTH and _IMAGE.fullmatch(url) for url in found):
        raise NotAnAction("Images are https addresses or data URLs of PNG, JPEG, GIF or WebP.")
    return found


def change_state(
    *, conversation_id: UUID, state: str, reason: str = "", asked_seq: int | None = None
) -> None:
    """Stop the agent, let it go on, or answer its question. Raises ``NotWaiting`` and ``NotAnAction``."""
    if state in ("stopped", "paused"):
        services.interrupt(conversation_id=conversation_id)
    elif state == "running":
        services.resume(conversation_id=conversation_id)
    elif state in ("user_confirmed", "user_rejected"):
        services.answer_confirmation(
            conversation_id=conversation_id,
            accept=state == "user_confirmed",
            reason=reason,
            asked_seq=asked_seq,
        )
    else:
        raise NotAnAction("The agent cannot be put into that state.")
