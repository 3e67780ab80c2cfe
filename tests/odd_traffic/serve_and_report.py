"""Run ``run_web``; on SIGUSR1, write the coroutines of the running asyncio tasks to standard error, one on a line.

Arguments: those of ``run_web``.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["DJANGO_SETTINGS_MODULE"] = "openhands_site.settings"


def report(*_: object) -> None:
    names = sorted(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    print("\n".join(["tasks:", *names, "end of tasks"]), file=sys.stderr, flush=True)


signal.signal(signal.SIGUSR1, report)
print(f"pid {os.getpid()}", file=sys.stderr, flush=True)
from django.core.management import execute_from_command_line  # noqa: E402 - needs the environment

execute_from_command_line(["manage.py", "run_web", *sys.argv[1:]])
