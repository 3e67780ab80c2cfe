"""Claims as providers send them: flags, numbers and lists that arrive as text, as JSON text or in objects.

OpenID Connect Core 5.1 defines ``email_verified`` as a boolean, but Amazon Cognito sends ``"true"``, and Microsoft
Entra ID leaves it out and sends ``xms_edov``. Claims with groups and roles have no standard at all.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

TRUE_TEXTS = {"true", "1", "yes"}
FALSE_TEXTS = {"false", "0", "no"}
NAME_FIELDS = ("name", "id", "value", "display", "displayName", "path")
"""The fields of an object in a list of groups that may contain the group's name."""
DEPTH_MAX = 8
"""Deeper structures are ignored: no provider nests groups so deeply."""


def read_flag(value: Any) -> bool | None:
    """Return a boolean claim that may be sent as a boolean, as 0 or 1, or as text. Return None for other values."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    text = value.strip().lower() if isinstance(value, str) else ""
    return True if text in TRUE_TEXTS else False if text in FALSE_TEXTS else None


def read_text(value: Any) -> str:
    """Return a claim with one text. Identity brokers may send it as a list of one element, and ids as a number.

    Return an empty string for other values.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def read_number(value: Any) -> float | None:
    """Return a number that may be sent as text. Return None for other values."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return None if isinstance(value, bool) or not math.isfinite(number) else number


def merge_claims(userinfo: dict[str, Any], token: dict[str, Any]) -> dict[str, Any]:
    """Return the claims of the userinfo endpoint and of the ID token. The token counts where both have a value.

    A null says nothing (OpenID Connect Core 5.3.2): some providers send null in the token and the value in userinfo.
    """
    return userinfo | {
        name: value
        for name, value in token.items()
        if value is not None or userinfo.get(name) is None
    }


def read_email(claims: dict[str, Any], *, trusts_email: bool) -> str:
    """Return the person's e-mail address, or "" if the provider sends none.

    Azure AD B2C sends a list ``emails`` in place of ``email``. If the operator trusts the provider's addresses, a
    ``preferred_username`` or ``upn`` that is an address counts too: Entra ID sends only these for many accounts.
    """
    if email := read_text(claims.get("email")):
        return email
    emails = claims.get("emails")
    found = read_text(emails[0]) if isinstance(emails, list) and emails else read_text(emails)
    names = ("preferred_username", "upn") if trusts_email and not found else ()
    texts = (read_text(claims.get(name)) for name in names)
    return found or next((text for text in texts if "@" in text), "")


def is_email_verified(claims: dict[str, Any], *, trusts_email: bool) -> bool:
    """Return whether the e-mail address in the claims is verified.

    ``trusts_email`` decides if the provider sends no claim about it. A claim that says no, or that cannot be read,
    always counts as no.
    """
    for name in ("email_verified", "xms_edov"):
        if claims.get(name) is not None:
            return read_flag(claims[name]) is True
    return trusts_email


def read_names(claims: dict[str, Any], path: str) -> set[str]:
    """Return the names in the claim at a path such as ``realm_access.roles``.

    A claim may be one text, a list, comma-separated text, JSON text, an object of objects whose keys are the names, or
    a list of objects with names; ``scope`` and ``scp`` are separated by spaces. Only text outside of lists is split,
    because the name of a group may contain a comma. Numbers and booleans are returned as JSON writes them.
    """
    splits_spaces = path.rpartition(".")[2] in ("scope", "scp")
    names: set[str] = set()
    for value in _follow(claims, path.split("."), 0):
        names.update(_names(value, splits_spaces=splits_spaces))
    return names


def _follow(value: Any, path: list[str], depth: int) -> Iterator[Any]:
    """Yield the values at a path. The name of a claim or of a client may contain dots itself."""
    if not path:
        yield value
        return
    if isinstance(value, str):
        value = _parse_json(value)
    if depth > DEPTH_MAX:
        return
    if isinstance(value, list):
        for item in value:
            yield from _follow(item, path, depth + 1)
    elif isinstance(value, dict):
        for length in range(len(path), 0, -1):
            name = ".".join(path[:length])
            if value.get(name) is not None:
                yield from _follow(value[name], path[length:], depth + 1)
                return


def _names(value: Any, *, splits_spaces: bool) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        parsed = _parse_json(value)
        if parsed is not None:
            yield from _listed(parsed, 0)
        else:
            # Cognito writes a list from SAML as [one, two], which is not JSON.
            text = value.strip()
            text = text[1:-1] if text.startswith("[") and text.endswith("]") else text
            pieces = text.split() if splits_spaces else text.split(",")
            yield from (piece.strip() for piece in pieces if piece.strip())
    else:
        yield from _listed(value, 0)


def _listed(value: Any, depth: int) -> Iterator[str]:
    """Yield the names in a value that is not split: a list's items, an object's keys, or the value itself."""
    if depth > DEPTH_MAX:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, bool | int | float):
        yield json.dumps(value)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                fields = [item[name] for name in NAME_FIELDS if isinstance(item.get(name), str)]
                yield from fields
            else:
                yield from _listed(item, depth + 1)
    elif isinstance(value, dict):
        # Zitadel sends {"role": {"<organization>": "<domain>"}}. An object with other values is no list of names.
        yield from (name for name, held in value.items() if isinstance(held, dict))


def _parse_json(text: str) -> Any:
    """Return the list or object that a text contains as JSON, or None."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, list | dict) else None
