"""The channel layer of wake-ups: the pub/sub layer of channels_redis, without its polling.

The package looks for a message ten times a second, in each process that has ever joined a group. Here the process
waits for the socket of Redis, so an idle process needs no time, and a message arrives as soon as before.
"""

import asyncio
import logging
from typing import Any

from channels_redis.pubsub import (
    RedisPubSubChannelLayer,
    RedisPubSubLoopLayer,
    RedisSingleShardConnection,
)
from channels_redis.utils import _wrap_close, decode_hosts

from lib.batches import Batches

log = logging.getLogger("channels_redis.pubsub")
WAIT_SECONDS = 60.0
"""How long one wait for a message may take. Another follows, so its length does not matter."""
RETRY_SECONDS = 1.0
"""The pause after a failure of Redis, as in the package."""


class ChannelLayer(RedisPubSubChannelLayer):  # type: ignore[misc]
    """A channel layer whose receivers wait for messages instead of polling."""

    def _get_layer(self) -> RedisPubSubLoopLayer:
        loop = asyncio.get_running_loop()
        if loop not in self._layers:
            self._layers[loop] = _LoopLayer(*self._args, **self._kwargs, channel_layer=self)
            _wrap_close(self, loop)
        return self._layers[loop]


class _LoopLayer(RedisPubSubLoopLayer):  # type: ignore[misc]
    def __init__(self, hosts: Any = None, **options: Any) -> None:
        super().__init__(hosts, **options)
        self._shards = [_Shard(host, self) for host in decode_hosts(hosts)]


class _Shard(RedisSingleShardConnection):  # type: ignore[misc]
    """The connection to one server of Redis."""

    def __init__(self, host: Any, channel_layer: _LoopLayer) -> None:
        super().__init__(host, channel_layer)
        self._has_joined = asyncio.Event()
        self._joins: Batches[str, None] = Batches(self._subscribe_together, size=500, calls=1)

    async def subscribe(self, channel: str) -> None:
        """Subscribe to a channel of Redis. Channels that are joined at the same time share a command."""
        if channel not in self._subscribed_to:
            await self._joins.ask(channel)
        self._has_joined.set()

    async def _subscribe_together(self, channels: list[str]) -> dict[str, Exception | None]:
        async with self._lock:
            layer = self.channel_layer
            # A channel may have been left since it was joined.
            joined = [name for name in channels if name in layer.groups or name in layer.channels]
            if new := [name for name in joined if name not in self._subscribed_to]:
                self._ensure_redis()
                self._ensure_receiver()
                await self._pubsub.subscribe(*new)
                self._subscribed_to.update(new)
        return dict.fromkeys(channels)

    async def _do_receiving(self) -> None:
        while True:
            try:
                if self._pubsub is not None and self._pubsub.subscribed:
                    message = await self._pubsub.get_message(
                        ignore_subscribe_messages=True, timeout=WAIT_SECONDS
                    )
                    self._receive_message(message)
                else:
                    # No await stands between the check above and this line, so no subscription is missed.
                    self._has_joined.clear()
                    await self._has_joined.wait()
            except Exception:
                log.exception("Unexpected exception in receive task")
                await asyncio.sleep(RETRY_SECONDS)
