"""`python -m bench [name …]`: run benchmarks, print a table of figures and write them to a JSON file.

Each figure is shown with a reference from the same run, and with the ratio of the two. ``--full`` uses larger tables:
up to 100,000 conversations and 1,000,000 events in ``rest``, and up to 10,000,000 events in ``table``.
"""

import os
import sys
import tempfile
from pathlib import Path

from bench import report
from openhands_site.operating import embedded

NAMES = (
    *("append", "grpc", "fanout", "followed", "growth", "idle", "layer", "rest"),
    *("startup", "middleware", "packages", "table", "path", "isolation", "markdown"),
)


def main() -> None:
    names = [name for name in sys.argv[1:] if not name.startswith("-")] or list(NAMES)
    if unknown := set(names) - set(NAMES):
        sys.exit(
            f"Unknown benchmark: {', '.join(sorted(unknown))}. Choose from {', '.join(NAMES)}."
        )
    with tempfile.TemporaryDirectory(prefix="oh-bench-") as folder:
        services = embedded.start(Path(folder) / "services", durable=True)
        try:
            _prepare(folder, services)
            results = [figure for name in names for figure in _run(name)]
        finally:
            services.stop()
    print(report.table(results))
    report.save(results)
    print(f"\nThe figures were written to {report.RESULTS}.")


def _prepare(folder: str, services: embedded.Embedded) -> None:
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "openhands_site.settings",
        "DATA_DIR": folder,
        "DATABASE_URL": services.database_url,
        "REDIS_URL": services.redis_url,
        "SECRET_KEY": "bench",
        "ENCRYPTION_KEYS": "b1:" + "0" * 64,
        "TOKEN_PEPPERS": "b1:" + "1" * 64,
        "LOG_LEVEL": "WARNING",
        "PUBLIC_URL": "http://127.0.0.1:8000",
        "HUB_POLL_SECONDS": "300",
        "SOCKET_BUFFER_BYTES": "67108864",
        "RATE_LIMITS": "off",
    }
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def _run(name: str) -> list[dict]:
    from importlib import import_module

    return import_module(f"bench.{name}").run()


# The processes of the server and of the sockets import this module again, under another name.
if __name__ == "__main__":
    main()
