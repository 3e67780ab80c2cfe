"""Clients that send requests without pause while processes are replaced."""

import threading
import time
from collections import Counter

import httpx2

from tests.fakes.stack import Talk


class Caller(threading.Thread):
    """A thread that renames a conversation until ``done`` is set. ``results`` counts the statuses and errors.

    With ``keeps_connection`` up to 200 requests use one connection, otherwise each uses a new connection.
    """

    def __init__(self, talk: Talk, *, keeps_connection: bool) -> None:
        super().__init__(daemon=True)
        self.talk, self.keeps_connection = talk, keeps_connection
        self.done = threading.Event()
        self.results: Counter[str] = Counter()

    def run(self) -> None:
        while not self.done.is_set():
            with httpx2.Client(trust_env=False, timeout=30) as client:
                for _ in range(200 if self.keeps_connection else 1):
                    if not self._call(client) or self.done.is_set():
                        break

    def _call(self, client: httpx2.Client) -> bool:
        """Send one request; return whether its connection can be used again."""
        headers = {"Authorization": f"Bearer {self.talk.owner.key}"}
        try:
            url = f"{self.talk.stack.url}/api/v1/{self.talk.path}"
            response = client.patch(url, json={"title": f"Title {time.time()}"}, headers=headers)
        except httpx2.TransportError as error:
            self.results[type(error).__name__] += 1
            return False
        self.results[str(response.status_code)] += 1
        return response.status_code < 500
