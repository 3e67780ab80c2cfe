"""Runs a conversation manager until it is told to stop."""

import asyncio
import signal

from django.core.management.base import BaseCommand

from conversations.manager import Manager


class Command(BaseCommand):
    help = "Follow live conversations: claim them by lease and read their engines' events into the log."

    def handle(self, **options: object) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        manager = Manager()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, manager.stopping.set)
        self.stdout.write(f"conversation manager {manager.owner} is running")
        await manager.run()
