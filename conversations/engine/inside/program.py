"""The beginning of a program in a sandbox: carry out one action and print its result as JSON."""

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from conversations.engine.inside import paths, repositories, transfers

PRINTED_BYTES = 65_536
"""The longest result that is printed. The engine stores the output of each command, so longer ones go into a file."""
_CODES = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "folder",
    errno.EACCES: "not-permitted",
    errno.EPERM: "not-permitted",
    errno.EROFS: "not-permitted",
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EFBIG: "file-too-large",
    errno.ENAMETOOLONG: "name-too-long",
    errno.ELOOP: "link-loop",
}


def run(action: Callable[..., dict[str, Any]], root: str, arguments: dict[str, Any]) -> None:
    """Print the result of an action, or ``{"refused": code}`` with the values for a sentence."""
    workspace = os.fsencode(root)
    try:
        result = action(workspace, **arguments)
    except paths.Refused as refused:
        result = {"refused": refused.code, **refused.fields}
    except repositories.GitFailed as failed:
        result = {"refused": "git", "detail": failed.detail}
    except OSError as error:
        result = {"refused": _CODES.get(error.errno or 0, "trouble"), "detail": error.strerror}
    text = json.dumps(result)
    if len(text) > PRINTED_BYTES:
        temporary = transfers.make_temporary(workspace)
        file = os.path.join(temporary, "result")
        with open(file, "w", encoding="ascii") as target:
            target.write(text)
        text = json.dumps({"file": file, "temporary": temporary})
    sys.stdout.write(text)
