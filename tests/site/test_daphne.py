"""The whole application on Daphne, the ASGI server of ``manage.py runserver``."""

import json

import httpx2
import pytest
from websockets.sync.client import connect

from accounts import services
from tests.fakes.processes import DAPHNE, webs


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(170)
def test_daphne_serves_pages_the_api_and_sockets(alice, tmp_path):
    _, key = services.issue_api_key(user=alice, name="daphne")
    headers = {"Authorization": f"Bearer {key}"}
    with (
        webs(1, tmp_path, command=DAPHNE, PUBLIC_URL="http://127.0.0.1") as [url],
        httpx2.Client(base_url=url, headers=headers, trust_env=False) as client,
    ):
        page = client.get("/sign-in")
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        response = client.post("/api/v1/conversations", json={"message": "Hello"})
        assert response.status_code in (201, 202)

        address = (
            f"{url.replace('http', 'ws', 1)}/ws/v1/conversations/{response.json()['id']}?after=0"
        )
        with connect(address, additional_headers=headers) as socket:
            kinds = []
            while "event" not in kinds:
                kinds.append(json.loads(socket.recv(timeout=20))["type"])
