"""An engine that prints the time of every request that reaches it, or answers no request at all.

``python -m tests.fakes.timed_engine answering openhands.agent_server`` prints its port and then, for each request, a
JSON line with ``path`` and ``at`` (seconds since 1970). With ``hung`` as the first argument it accepts connections and
never answers, like an engine that was stopped with SIGSTOP.
"""

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        print(json.dumps({"path": self.path, "at": time.time()}), flush=True)
        body = json.dumps({"execution_status": "idle"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main(mode: str) -> None:
    if mode == "hung":
        # The system accepts connections up to the backlog, and no request is read.
        listener = socket.create_server(("127.0.0.1", 0), backlog=1_000)
        print(listener.getsockname()[1], flush=True)
        threading.Event().wait()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
