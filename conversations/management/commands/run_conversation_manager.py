"""Run a conversation manager until SIGTERM or SIGINT."""

import asyncio
import signal

from django.conf import settings
from django.core.management.base import BaseCommand

from conversations.manager.manager import Manager
from lib import nodes, open_files
from lib.connections import limit_idle_transactions
from lib.reachability import wait_for_database


class Command(BaseCommand):
    help = (
        "Run a conversation manager, which claims live conversations and stores the events of their engines. "
        "On SIGTERM, the manager hands its conversations back immediately."
    )

    # The checks of models ask PostgreSQL for its version, so they would wait for it without a word.
    requires_system_checks = ()

    def handle(self, **options: object) -> None:
        open_files.prepare("manager")
        wait_for_database("manager")
        # A manager that is paused in the middle of a transaction keeps its locks. Without this limit, other managers
        # could not take over its conversations when its leases expire.
        limit_idle_transactions(settings.LEASE_SECONDS)
        asyncio.run(self._run())

    async def _run(self) -> None:
        manager = Manager(nodes.new_id())
        with nodes.announce("manager", node_id=manager.owner, load=manager.figures) as node:

            def stop() -> None:
                node.drain()
                manager.stopping.set()

            loop = asyncio.get_running_loop()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, stop)
            self.stdout.write(f"Conversation manager {manager.owner} is running.")
            await manager.run()
