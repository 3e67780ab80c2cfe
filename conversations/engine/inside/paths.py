"""Paths in a workspace: their texts for clients, and the bytes behind them."""

import base64
import os

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Refused(Exception):
    """An action that cannot be carried out. ``code`` names the cause; ``fields`` are values for a sentence."""

    def __init__(self, code: str, **fields: object) -> None:
        self.code = code
        self.fields = fields
        super().__init__(code)


def to_text(name: bytes) -> str:
    """Return a name as text. Bytes that are not UTF-8 become U+FFFD; ``find`` accepts such a text as well."""
    return name.decode("utf-8", "replace")


def to_ascii(path: bytes) -> str:
    """Return a path as base64, in which the server passes it back unchanged."""
    return base64.b64encode(path).decode()


def from_ascii(path: str) -> bytes:
    """Return the path behind the text of ``to_ascii``."""
    return base64.b64decode(path)


def find(root: bytes, path: str, *, must_exist: bool = True, follow: bool = True) -> bytes:
    """Return the absolute path for a path relative to ``root``, with symbolic links resolved.

    With ``follow=False``, the last component is not resolved, so the result may be a link. Refuse a path that leaves
    the workspace (``outside``), that does not exist (``missing``), or that may mean several files (``ambiguous``).
    """
    real_root = os.path.realpath(root)
    current = real_root
    for part in path.split("/"):
        if part not in ("", "."):
            current = os.path.join(current, find_name(current, part))
    if follow or current == real_root:
        found = os.path.realpath(current, strict=must_exist)
    else:
        found = os.path.join(
            os.path.realpath(os.path.dirname(current), strict=must_exist), os.path.basename(current)
        )
        if must_exist:
            os.lstat(found)
    if found != real_root and not found.startswith(real_root.rstrip(b"/") + b"/"):
        raise Refused("outside")
    return found


def find_name(folder: bytes, name: str) -> bytes:
    """Return the name in a folder that a client's text means, whether or not there is such an entry."""
    try:
        raw = name.encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise Refused("missing") from error
    if REPLACEMENT not in name or os.path.lexists(os.path.join(folder, raw)):
        return raw
    # The client may have this text from a list, in place of a name that is not UTF-8.
    try:
        matches = [entry for entry in os.listdir(folder) if to_text(entry) == name]
    except OSError:
        return raw
    if len(matches) > 1:
        raise Refused("ambiguous")
    return matches[0] if matches else raw


def relative(path: bytes, root: bytes) -> bytes:
    """Return an absolute path relative to the workspace."""
    return os.path.relpath(path, os.path.realpath(root))
