"""No operation on files answers an odd value with a server error, with a real engine behind it.

``tests/api/test_odd_values.py`` does the same for all other operations. ``ODD_VALUES`` and ``ODD_SHARE`` send more.
"""

import re

import pytest

from accounts import services as accounts
from conversations import services
from tests.api.odd_operations import Operation, operations
from tests.fakes.stack import figure
from tests.odd_requests import SHARE, VALUES, Sender, Tally, sample

pytestmark = [
    pytest.mark.engine, pytest.mark.slow, pytest.mark.django_db, pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(7_200),
]  # fmt: skip
ON_FILES = re.compile(
    r"/(files|git|archive|list-files|select-file|upload-files|zip-directory|file)\b"
)
ANYTHING = "x"
"""The value of the parameters of operations that are not sent."""


class _Own(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ANYTHING


def operations_on_files(box, key: str, token: str) -> list[Operation]:
    """Return a valid request for each operation on the files of a workspace, with the credentials that it takes."""
    own = _Own(id=str(box.conversation.pk), conversation_id=str(box.conversation.pk), path="a.txt")
    found = [
        operation
        for operation in operations(own)
        if ON_FILES.search(operation.path) and not operation.path.startswith("/api/v1/egress")
    ]
    for operation in found:
        of_engine = operation.path.startswith(("/api/file/", "/api/git/"))
        operation.headers = (
            (("X-Session-API-Key", key),) if of_engine else (("Authorization", f"Bearer {token}"),)
        )
        of_folder = re.search(r"/(files|list-files|changes)$", operation.path)
        for name in {"path", "file"} & operation.query.keys():
            operation.query[name] = "." if of_folder else "a.txt"
        if operation.path.endswith("/archive"):
            operation.query["format"] = "zip"
    assert len(found) >= 20
    return found


def test_odd_values_in_each_part_of_each_request_on_files(box, alice, settings):
    settings.RATE_LIMITS = {}
    box.write("a.txt", "old\n")
    box.commit()
    box.write("a.txt", "new\n")
    key = services.conversation_key(conversation=box.conversation, user=alice)
    _, token = accounts.issue_api_key(user=alice, name="odd")
    found = operations_on_files(box, key, token)
    tally = Tally()
    sender = Sender(tally)

    valid = {operation.label: sender.send(operation.write("valid")) for operation in found}
    assert set(valid.values()) <= {200, 201, 204}, valid
    sender.send_all(
        sample(
            (
                request._replace(surface="REST, files")
                for number, operation in enumerate(found)
                for request in operation.list_odd(number, VALUES or 12)
            ),
            SHARE or 0.05,
        )
    )

    figure("odd values, files", requests=tally.requests, statuses=tally.statuses, server_errors=tally.server_errors)  # fmt: skip
    assert not tally.kinds, tally.report()
    assert not tally.unreadable, tally.report()
