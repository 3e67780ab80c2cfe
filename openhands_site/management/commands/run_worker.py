"""The ``run_worker`` command: a process of the ``worker`` role, which runs background jobs."""

import asyncio
import contextlib
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from procrastinate.contrib.django import app
from procrastinate.contrib.django.django_connector import DjangoConnector
from procrastinate.job_context import JobContext
from procrastinate.middleware import AsyncCallNext
from procrastinate.worker import Worker

from lib import nodes, open_files


class Command(BaseCommand):
    help = (
        "Run background jobs. After SIGTERM, no new job is started and running jobs may finish. A second SIGTERM "
        "ends the process immediately."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--grace",
            type=float,
            default=15.0,
            help="seconds that running jobs have to finish (default: %(default)s)",
        )

    def handle(self, *args: Any, grace: float, **options: Any) -> None:
        open_files.prepare("worker")
        self.running = self.done = 0
        assert isinstance(app.connector, DjangoConnector)
        with app.replace_connector(app.connector.get_worker_connector()):
            asyncio.run(self._run(grace))

    async def _run(self, grace: float) -> None:
        async with app.open_async():
            await self._work(grace)

    async def _work(self, grace: float) -> None:
        work = asyncio.create_task(
            app.run_worker_async(
                shutdown_graceful_timeout=grace,
                install_signal_handlers=False,
                worker_middleware=[self._count],
            )
        )
        loop = asyncio.get_running_loop()
        with nodes.announce("worker", load=self._figures) as node:

            def stop() -> None:
                node.drain()
                work.cancel()  # procrastinate then stops fetching jobs and waits for running ones
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.remove_signal_handler(number)

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _count(self, call_next: AsyncCallNext, context: JobContext, worker: Worker) -> Any:
        self.running += 1
        try:
            return await call_next()
        finally:
            self.running -= 1
            self.done += 1

    def _figures(self) -> dict[str, float]:
        return {"jobs": self.running, "jobs_done": self.done}
