"""A client that is generated from ``docs/openapi.yaml`` and calls the server."""

import hashlib
import importlib
import re
import shutil
import subprocess
import sys
from uuid import UUID, uuid4

import pytest
from django.conf import settings

from accounts import services
from compat.deprecations import normalize_route, replacements
from tests.fakes.processes import webs

DOCUMENT = settings.BASE_DIR / "docs/openapi.yaml"
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def generated():
    """The generated package, cached in ``tests/.cache`` for each version of the document."""
    digest = hashlib.sha256(DOCUMENT.read_bytes()).hexdigest()[:12]
    folder = settings.BASE_DIR / "tests/.cache" / f"client-{digest}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [
            sys.executable, "-m", "openapi_python_client", "generate", "--path", str(DOCUMENT),
            "--meta", "none", "--output-path", str(folder / "agent_server"), "--overwrite",
            "--config", str(settings.BASE_DIR / "tests/api/client.yaml"),
        ]  # fmt: skip
        completed = subprocess.run(
            command, capture_output=True, text=True, timeout=200, check=False
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        skipped = {
            normalize_route(path)
            for path in re.findall(r"WARNING parsing \S+ (\S+)", completed.stdout)
        }
        # The generator supports not every body type that deprecated routes use, so it may skip those routes.
        assert skipped <= replacements().keys(), completed.stdout
        (folder / "done").touch()
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"agent_server.{name}")
    sys.path.remove(str(folder))


def test_generated_client_starts_steers_and_reads_a_conversation(generated, alice, tmp_path):
    _, token = services.issue_api_key(user=alice, name="typed")
    models = generated("models")
    conversations = "api.conversations.conversations"
    with webs(1, tmp_path) as [url]:
        client = generated("client").AuthenticatedClient(base_url=url, token=token)
        with client:
            created = generated(f"{conversations}_create").sync(
                client=client, body=models.NewConversationRequest(message="hello", title="Typed")
            )
            posted = generated(f"{conversations}_messages_create").sync(
                created.id,
                client=client,
                body=models.MessageRequest(text="more", message_id=uuid4()),
            )
            events = generated(f"{conversations}_events_retrieve").sync(created.id, client=client)
            renamed = generated(f"{conversations}_partial_update").sync(
                created.id,
                client=client,
                body=models.PatchedConversationPatchRequest(title="Renamed"),
            )
            page = generated(f"{conversations}_list").sync(client=client)
            missing = generated(f"{conversations}_retrieve").sync_detailed(uuid4(), client=client)

    assert isinstance(created.id, UUID)
    assert (created.title, created.status.value, created.cost_micros) == ("Typed", "starting", 0)
    assert posted.seq == 2
    assert [event.seq for event in events.items] == [1, 2]
    assert [event.payload["text"] for event in events.items] == ["hello", "more"]
    assert renamed.title == "Renamed"
    assert [row.id for row in page.items] == [created.id]
    assert missing.status_code == 404
    assert missing.parsed.code == "not-found"
