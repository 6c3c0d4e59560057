"""Redis as an engine: few connections, shared by pipelining.

Rule: commands that are asked for in the same moment travel together, one pipeline a node, so that a node that is away
hurts no other's. Every command has a deadline. One whose answer was lost is sent a second time, so all that pass here
are repeatable; the client itself repeats nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import hiredis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from authix.errors import SettingsError
from authix_issuer.adapters.unreachable import REDIS, why
from authix_issuer.errors import StoreUnavailable
from authix_issuer.findings import Finding, Verdict, judge

logger = logging.getLogger("authix.issuer.redis")

DEADLINE = 4.0
"""Seconds that a command may take in all."""
CONNECT_TIMEOUT = 2.0
_LANES = 2  # batches under way at once
_MAX_BATCH = 256
_MAX_WAITING = 20_000
_WAKE_EVERY = 1.0
_FAILURES = (RedisError, OSError, TimeoutError, RuntimeError)
"""The last is uvloop's, for a write to a connection that was reset."""

Key = str | bytes
Argument = str | bytes | int
Command = tuple[Argument, ...]
Exchange = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Sends commands in one piece and waits for their answers."""
_Waiting = tuple[Command, "asyncio.Future[Any]"]


class Script:
    """A Lua script, called by its hash."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode("utf-8")).hexdigest()  # noqa: S324 - Redis names scripts so


_TIME = Script("return redis.call('TIME')")


class _Line:
    """A connection of a lane's own. The client's pipelines would fetch one and give it back around each batch, and put
    commands into bytes and set a deadline for each answer by themselves: more work than all else that a batch takes.
    """

    def __init__(self, single: Redis) -> None:
        self._connection = single.connection_pool.make_connection()  # type: ignore[no-untyped-call] # redis-py has no types for it
        self._connection.socket_timeout = None  # whoever exchanges has a deadline for all of it

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The answers in their order, errors of Redis among them. After a failure it connects anew."""
        connection, answers = self._connection, []
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type] # its stub says: one argument
        try:
            await connection.send_packed_command(b"".join(packed), check_health=False)
            for _ in packed:
                try:
                    answers.append(await connection.read_response(timeout=math.inf))
                except ReadOnlyError:  # it was the master when we connected; who asks anew finds the one of now
                    raise
                except ResponseError as error:
                    answers.append(error)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return answers

    async def close(self) -> None:
        await self._connection.disconnect()


class RedisEngine:
    """One Redis, or one Redis Cluster, found out at the start."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._lanes: list[asyncio.Task[None]] = []
        self._lines: list[_Line] = []
        self._info: dict[str, Any] = {}
        self._fsync = ""
        self._client: Redis | RedisCluster

    async def __aenter__(self) -> Self:
        """Raises ``SettingsError`` when Redis can't be reached, is too old or is a replica."""
        try:
            self._client = await self._connect()
        except _FAILURES as error:
            raise SettingsError(f"AUTHIX_SESSIONS_URL names a Redis that {why(error, REDIS)}.") from None
        except (ValueError, TypeError):  # it takes unknown parameters for arguments
            raise SettingsError(
                "AUTHIX_SESSIONS_URL is no usable Redis URL: write it as redis://user:password@host:port/0, or as "
                "rediss://… for TLS."
            ) from None
        self._lanes = [asyncio.create_task(self._carry(self._open_lane())) for _ in range(_LANES)]
        for finding in self.examine():
            if finding.verdict is not Verdict.OK:
                logger.warning("%s: %s", finding.subject, finding.detail)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        self._answer_all(self._take_batch(len(self._waiting)), StoreUnavailable("the issuer is stopping", "redis"))
        await asyncio.gather(*(line.close() for line in self._lines), return_exceptions=True)
        await self._client.aclose()

    async def _connect(self) -> Redis | RedisCluster:
        single = Redis.from_url(self._url, **_options())
        try:
            async with asyncio.timeout(DEADLINE):
                await self._look_at(single)
            if self._info.get("redis_mode") != "cluster":
                return single
        except BaseException:
            await single.aclose()
            raise
        await single.aclose()
        cluster = RedisCluster.from_url(self._url, **_options())
        try:
            async with asyncio.timeout(DEADLINE):
                await cluster.initialize()
        except BaseException:
            await cluster.aclose()
            raise
        return cluster

    async def _look_at(self, single: Redis) -> None:
        self._info = await single.info()
        with contextlib.suppress(ResponseError):  # managed services tell no settings
            self._fsync = str((await single.config_get("appendfsync")).get("appendfsync", ""))
        version = str(self._info["redis_version"])
        if int(version.partition(".")[0]) < 7:
            raise SettingsError(f"AUTHIX_SESSIONS_URL names a Redis {version}: use version 7 or newer.")
        if self._info["role"] != "master" and self._info.get("redis_mode") != "cluster":
            master = f"{self._info.get('master_host')}:{self._info.get('master_port')}"
            raise SettingsError(
                f"AUTHIX_SESSIONS_URL names a Redis that is a replica of {master} and takes no writes of ours: "
                "name the master, or what leads to it."
            )

    async def call(self, *command: Argument) -> Any:
        """The answer to one command. Raises ``StoreUnavailable``."""
        answer = await self._ask(command)
        if isinstance(answer, Exception):
            raise StoreUnavailable(f"Redis failed: {answer}", "redis") from answer
        return answer

    async def run(self, script: Script, keys: Sequence[Key], *arguments: Argument) -> Any:
        """The answer of a script. Raises ``StoreUnavailable``."""
        answer = await self._ask(("EVALSHA", script.sha, len(keys), *keys, *arguments))
        if isinstance(answer, NoScriptError):  # a new or restarted server
            answer = await self._ask(("EVAL", script.text, len(keys), *keys, *arguments))
        if isinstance(answer, Exception):
            raise StoreUnavailable(f"Redis failed: {answer}", "redis") from answer
        return answer

    async def time(self) -> float:
        """Seconds since the epoch, by Redis' clock."""
        seconds, micros = await self.run(_TIME, ["authix:clock"])
        return float(seconds) + float(micros) / 1e6

    def examine(self) -> list[Finding]:
        """Whether this Redis keeps what it acknowledged, as far as it tells."""
        info = self._info
        fsync = self._fsync
        policy = str(info.get("maxmemory_policy", "unknown"))
        return [
            judge(
                "sessions (Redis)",
                good=True,
                fine=f"version {info['redis_version']}, {info.get('redis_mode')}",
                otherwise="",
            ),
            judge(
                "sessions (Redis) append-only file",
                bool(info.get("aof_enabled")),
                "on",
                "off, so a crash loses sessions and acknowledged logouts. Set `appendonly yes`.",
            ),
            judge(
                "sessions (Redis) appendfsync",
                fsync in {"always", ""},
                fsync or "not told by this server; make sure that it is `always`",
                f"{fsync}, so a power loss can lose the last second's logouts. Set `appendfsync always`.",
                bad=Verdict.WARNING,
            ),
            judge(
                "sessions (Redis) maxmemory-policy",
                policy == "noeviction",
                policy,
                f"{policy}, so a full memory drops sessions and logouts in silence. Set `maxmemory-policy noeviction`.",
            ),
        ]

    async def listen(self, channel: str, heard: Callable[[], None]) -> None:
        """Call ``heard`` for each message on ``channel``, for ever; a lost connection is made again."""
        while True:
            with contextlib.suppress(*_FAILURES):
                async with self._client.pubsub() as subscription:
                    await subscription.subscribe(channel)
                    heard()
                    while True:
                        if await subscription.get_message(ignore_subscribe_messages=True, timeout=_WAKE_EVERY):
                            heard()
            await asyncio.sleep(_WAKE_EVERY)

    async def _ask(self, command: Command) -> Any:
        if len(self._waiting) >= _MAX_WAITING:
            raise StoreUnavailable("too many commands wait for Redis", "redis")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((command, future))
        self._wake.set()
        deadline = loop.call_later(DEADLINE, _give_up, future)  # a third of what asyncio.timeout takes
        try:
            return await future
        finally:
            deadline.cancel()

    def _open_lane(self) -> Callable[[list[_Waiting]], Awaitable[None]]:
        client = self._client
        if isinstance(client, RedisCluster):
            return partial(self._pass_to_nodes, client)
        line = _Line(client)
        self._lines.append(line)
        return partial(self._pass_on, line.exchange)

    async def _carry(self, pass_on: Callable[[list[_Waiting]], Awaitable[None]]) -> None:
        """One lane: take what waits, send it in one piece, hand out the answers."""
        while True:
            await self._wake.wait()
            batch = self._take_batch(_MAX_BATCH)
            if not batch:
                continue
            try:
                await pass_on(batch)
            except Exception as error:  # whatever it is, without its lanes the issuer would hear of Redis no more
                logger.exception("a batch of commands failed")
                self._answer_all(batch, StoreUnavailable(f"Redis does not answer ({type(error).__name__})", "redis"))

    async def _pass_to_nodes(self, cluster: RedisCluster, batch: list[_Waiting]) -> None:
        async def exchange(commands: Sequence[Command]) -> list[Any]:
            pipeline = cluster.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)

        parts: dict[str, list[_Waiting]] = {}
        for waiting in batch:
            node = cluster.get_node_from_key(_routing_key(waiting[0]))
            parts.setdefault(node.name if node else "", []).append(waiting)
        await asyncio.gather(*(self._pass_on(exchange, part) for part in parts.values()))

    async def _pass_on(self, exchange: Exchange, batch: list[_Waiting]) -> None:
        """Send in one piece, hand out the answers; once more after a failure."""
        for last in (False, True):
            try:
                async with asyncio.timeout(DEADLINE / 2):
                    answers = await exchange([command for command, _ in batch])
            except _FAILURES as error:
                if last:
                    away = StoreUnavailable(f"Redis does not answer ({type(error).__name__})", "redis")
                    self._answer_all(batch, away)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
            return

    def _take_batch(self, limit: int) -> list[_Waiting]:
        """What waits and is still wanted."""
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        if not self._waiting:
            self._wake.clear()
        return [waiting for waiting in taken if not waiting[1].done()]

    @staticmethod
    def _answer_all(batch: list[_Waiting], error: StoreUnavailable) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(StoreUnavailable(f"Redis did not answer within {DEADLINE:.0f} s", "redis"))


def _routing_key(command: Command) -> str:
    """The key that says which node a command is for."""
    return str(command[3] if command[0] in {"EVALSHA", "EVAL"} else command[1])


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": DEADLINE / 2,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 3,
    }
