"""The main loop of the web process: it sleeps, renews the header ``Date``, and ends with a signal."""

import asyncio
import signal
import time

import pytest
import uvicorn

from openhands_site.management.commands.run_web import TICK_SECONDS, Server


@pytest.fixture
def server():
    async def application(scope, receive, send):
        raise NotImplementedError

    config = uvicorn.Config(application, lifespan="off", log_config=None)
    config.load()
    return Server(config)


async def test_main_loop_renews_the_date_once_a_second(server, monkeypatch):
    ticks = []
    real = server.on_tick

    async def count(counter):
        ticks.append(time.monotonic())
        return await real(counter)

    monkeypatch.setattr(server, "on_tick", count)
    loop = asyncio.create_task(server.main_loop())
    await asyncio.sleep(0.1)
    first = dict(server.server_state.default_headers)[b"date"]
    await asyncio.sleep(2 * TICK_SECONDS)

    assert dict(server.server_state.default_headers)[b"date"] != first
    assert 2 <= len(ticks) <= 4
    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(loop, 1)


async def test_main_loop_ends_at_once_after_a_signal(server):
    loop = asyncio.create_task(server.main_loop())
    await asyncio.sleep(0.1)
    began = time.monotonic()

    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(loop, 5)

    assert time.monotonic() - began < TICK_SECONDS / 2


async def test_main_loop_ends_if_a_signal_came_before_it(server):
    server.handle_exit(signal.SIGTERM, None)

    await asyncio.wait_for(server.main_loop(), 1)
