"""A program that starts a sandbox, prints its handle and waits to be killed: ``python -m … PROVIDER SANDBOX_ID``."""

import json
import sys
import time
from uuid import UUID

import django


def main() -> None:
    django.setup()
    from conversations.sandboxes.provider import SandboxSpec, get_provider
    from tests.conversations.sandboxes.box import SECRET_KEY, SESSION_KEY

    name, sandbox_id = sys.argv[1:]
    spec = SandboxSpec(UUID(sandbox_id), SESSION_KEY, SECRET_KEY, "http://127.0.0.1:1")
    print(json.dumps(get_provider(name).start(spec)), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
