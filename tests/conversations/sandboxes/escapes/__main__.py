"""Run all attempts and print the tables as Markdown, as root: ``python -m tests.conversations.sandboxes.escapes``.

Arguments: ``escapes``, ``bounds`` or ``egress`` (default: all), and ``--keep FILE`` for the results as JSON. The
environment variable ``ENGINE_DIR`` names an installed engine. Only addresses of the run's own namespaces are called.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.conversations.sandboxes.escapes import table, world

USERS = {"root": 0, "user": world.ORDINARY_UID}


def main(arguments: list[str]) -> int:
    began = time.monotonic()
    keep = arguments[arguments.index("--keep") + 1] if "--keep" in arguments else ""
    parts = [part for part in ("escapes", "bounds", "egress") if part in arguments]
    results: dict[str, Any] = {}
    package = "tests.conversations.sandboxes.escapes"
    status = 0
    for part in parts or ["escapes", "bounds", "egress"]:
        if part == "escapes":
            results[part] = {
                u: world.run_world(f"{package}.server", uid=uid) for u, uid in USERS.items()
            }
            print(table.escapes(results[part]), "\n")
            status = 1 if table.find_open(results[part]) else status
        else:
            results[part] = world.run_world(f"{package}.{part}", uid=USERS["user"])
            print(getattr(table, part)(results[part]), "\n")
    if keep:
        Path(keep).write_text(json.dumps(results, indent=1))
    print(f"{time.monotonic() - began:.0f} seconds")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
