"""The ``run_worker`` command: a process of the ``worker`` role, which runs the background jobs of all queues."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from procrastinate.contrib.django import app
from procrastinate.job_context import JobContext
from procrastinate.middleware import AsyncCallNext
from procrastinate.worker import Worker

from conversations.queue import DEFAULT
from lib import nodes, open_files
from lib.commands import seconds
from lib.reachability import wait_for_database
from openhands_site.operating.job_queues import Shares, list_queues
from openhands_site.operating.job_workers import JobWorkers, make_connector

EXIT_SECONDS = 2.0
"""The time after the grace period until the process ends even if threads still wait for engines."""


class Command(BaseCommand):
    help = (
        "Run background jobs. After SIGTERM, no new job is started and running jobs may finish. A second SIGTERM "
        "ends the process immediately."
    )

    # The checks of models ask PostgreSQL for its version, so they would wait for it without a word.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--grace",
            type=seconds(0, 3_600),
            default=15.0,
            help="seconds that running jobs have to finish (default: %(default)s)",
        )

    def handle(self, *args: Any, grace: float, **options: Any) -> None:
        open_files.prepare("worker")
        wait_for_database("worker")
        self.running = self.done = 0
        with app.replace_connector(make_connector()):
            asyncio.run(self._run(grace))

    async def _run(self, grace: float) -> None:
        async with app.open_async():
            await self._work(grace)

    async def _work(self, grace: float) -> None:
        queues = list_queues()
        loop = asyncio.get_running_loop()
        # Jobs are blocking functions, so each slot needs a thread. The event loop's own default is a few threads for
        # each core. The additional threads look up the owners of jobs.
        threads = ThreadPoolExecutor(sum(queue.slots for queue in queues) + 4, "job")
        loop.set_default_executor(threads)
        self.shares = [Shares(queue) for queue in queues]
        group = JobWorkers(app)
        for queue, shares in zip(queues, self.shares, strict=True):
            group.add(
                queue,
                [queue.name, *(["builtin"] if queue.name == DEFAULT else [])],
                shutdown_graceful_timeout=grace,
                install_signal_handlers=False,
                worker_middleware=[shares, self._count],
            )
        workers = [asyncio.create_task(worker.work()) for worker in group.workers]
        with nodes.announce("worker", load=self._figures) as node:

            def cancel_workers() -> None:
                for worker in workers:
                    worker.cancel()  # procrastinate then stops fetching jobs and waits for running ones
                # A thread cannot be cancelled, and one that waits for an engine may wait for minutes. Every job is safe
                # to kill, and another worker runs it again.
                loop.call_later(grace + EXIT_SECONDS, os._exit, 0)

            def stop() -> None:
                node.drain()
                cancel_workers()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.remove_signal_handler(number)

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            # If the worker of a queue ends by itself, for example without a database, the process ends, and its
            # supervisor starts it again.
            await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
            if not node.is_draining:
                cancel_workers()
            for result in await asyncio.gather(*workers, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    async def _count(self, call_next: AsyncCallNext, context: JobContext, worker: Worker) -> Any:
        self.running += 1
        try:
            return await call_next()
        finally:
            self.running -= 1
            self.done += 1

    def _figures(self) -> dict[str, float]:
        postponed = sum(shares.postponed for shares in self.shares)
        return {"jobs": self.running, "jobs_done": self.done, "jobs_postponed": postponed}
