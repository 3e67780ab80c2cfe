import asyncio

import pytest

from tests.conversations.sandboxes.egress.world import World


@pytest.fixture
async def world(tmp_path):
    """A running proxy with the profile public; no task is left at the end."""
    world = World(tmp_path)
    await world.start()
    yield world
    await world.close()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left


@pytest.fixture
async def make_world(tmp_path):
    """Start a proxy with other limits or another policy."""
    worlds = []

    async def make(**options):
        world = World(tmp_path)
        worlds.append(world)
        await world.start(**options)
        return world

    yield make
    for world in worlds:
        await world.close()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left
