"""`python -m bench [name …]`: run benchmarks, print a table of figures and write them to a JSON file.

Each figure is shown with a reference from the same run, and with the ratio of the two. ``--full`` uses larger tables:
up to 100,000 conversations and 1,000,000 events in ``rest``, and up to 10,000,000 events in ``table``.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg

from bench import report
from lib import open_files
from openhands_site.operating import embedded

ONE = "--one"
"""The option with which this module starts itself for one benchmark."""
NAMES = (
    *("first_minute", "append", "grpc", "fanout", "followed", "growth", "idle", "layer", "rest"),
    *("startup", "middleware", "packages", "table", "path", "isolation", "markdown", "redaction"),
    *("pages", "compat", "clients", "opening", "memory", "roles"),
)


def main() -> None:
    names = [name for name in sys.argv[1:] if not name.startswith("-")] or list(NAMES)
    if unknown := set(names) - set(NAMES):
        sys.exit(
            f"Unknown benchmark: {', '.join(sorted(unknown))}. Choose from {', '.join(NAMES)}."
        )
    results: list[dict[str, Any]] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="oh-bench-") as folder:
        services = embedded.start(Path(folder) / "services", durable=True)
        try:
            _prepare(folder, services)
            for name in names:
                figures = _run(name, Path(folder) / f"{name}.json")
                if figures is None:
                    failed.append(name)
                else:
                    results += figures
                # Save after each benchmark, so that Ctrl-C keeps the figures so far.
                report.save(results, failed=failed)
        finally:
            services.stop()
    print(report.table(results))
    print(f"\nThe figures were written to {report.RESULTS}.")
    if failed:
        sys.exit(f"These benchmarks failed: {', '.join(failed)}. Their errors are printed above.")


def _prepare(folder: str, services: embedded.Embedded) -> None:
    # Thousands of sockets of one user need more open files than a shell gives, and no limit.
    open_files.raise_limit()
    os.environ |= {
        "STREAMS_PER_USER": "0",
        "SOCKETS_PER_ADDRESS": "0",
        "PUBLISHED_KILOBYTES_PER_MINUTE": "0",
        "PUBLISHED_KILOBYTES_PER_DAY": "0",
        "PUBLISHED_EVENTS_PER_RUN": "0",
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
    # Tables of millions of rows are filled without the checks of foreign keys.
    with psycopg.connect(services.superuser_url, autocommit=True) as connection:
        connection.execute(f"GRANT SET ON PARAMETER session_replication_role TO {embedded.ROLE}")
    import django
    from django.conf import settings
    from django.core.management import call_command

    django.setup()
    (settings.DATA_DIR / "static").mkdir()
    call_command("migrate", verbosity=0)


def _run(name: str, path: Path) -> list[dict[str, Any]] | None:
    """Run a benchmark in a process of its own; return its figures, or None if it failed.

    Its errors are printed. In one process, a benchmark that fails or leaves files open would spoil the next.
    """
    options = [option for option in sys.argv[1:] if option.startswith("-")]
    command = [sys.executable, "-m", "bench", ONE, str(path), name, *options]
    if subprocess.run(command, check=False).returncode != 0:
        print(f"The benchmark {name} failed.", file=sys.stderr, flush=True)
        return None
    return list(json.loads(path.read_text()))


def _run_here(path: Path, name: str) -> None:
    """Run a benchmark in this process and write its figures to a JSON file."""
    import django

    django.setup()
    path.write_text(json.dumps(import_module(f"bench.{name}").run()))


# The processes of the server and of the sockets import this module again, under another name.
if __name__ == "__main__":
    if sys.argv[1:2] == [ONE]:
        _run_here(Path(sys.argv[2]), sys.argv[3])
    else:
        main()
