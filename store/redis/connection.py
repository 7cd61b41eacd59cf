"""One open client of a server, of whoever its Sentinels call primary, or of a Cluster.

Every call ends within seconds. What was sent on a connection that had died is sent once more on a new one,
which is why every write here may arrive twice (a commit carries a nonce, the rest replaces). A call that was
not answered in time is not repeated: whoever asked reads again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import redis
from redis import cluster, sentinel
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import NoPermissionError, NoScriptError
from redis.retry import Retry

from ...errors import StoreError
from .address import Address
from .faults import CLIENT_ERRORS, store_error
from .keys import Keys
from .scripts import Script

CONNECT: Final = 2.0  # seconds to connect
ANSWER: Final = 2.5  # seconds for one answer
ACKNOWLEDGE: Final = 1.5  # seconds for replicas to confirm
_CLUSTER_TRIES: Final = 2
_CLUSTER_PAUSE: Final = 0.25  # seconds between them: a failover takes longer, and whoever asked asks again

Argument = str | bytes | int | float


class Connection:
    """Calls on the store at `address`. Raises StoreError naming the place; after `close` and a fork too."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.place = address.place
        self.keys = Keys(address.prefix)
        self._process = os.getpid()
        self._closed = False
        try:
            self._client: Any = _client(address)
        except CLIENT_ERRORS as problem:
            raise store_error(self.place, problem) from problem

    @property
    def closed(self) -> bool:
        """Whether it has been let go."""
        return self._closed

    def call(self, *command: Argument) -> Any:
        """One command's answer."""
        self._check()
        try:
            return self._client.execute_command(*command)
        except CLIENT_ERRORS as problem:
            raise store_error(self.place, problem) from problem

    def calls(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The answers of several commands, sent together; of a Cluster, to each node its own."""
        self._check()
        if not commands:
            return []
        try:
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return list(pipeline.execute())
        except CLIENT_ERRORS as problem:
            raise store_error(self.place, problem) from problem

    def run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] = (), *, writes: bool = False
    ) -> Any:
        """What a script answers. `writes`: a time-out leaves open whether it ran."""
        self._check()
        try:
            try:
                return self._client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
            except NoScriptError:  # the server has been started since, or never saw it
                return self._client.execute_command("EVAL", script.text, len(keys), *keys, *arguments)
        except CLIENT_ERRORS as problem:
            unknown = writes and isinstance(problem, redis.TimeoutError | redis.ConnectionError)
            raise store_error(self.place, problem, unknown=unknown) from problem

    def acknowledge(self, key: str) -> None:
        """Wait until replicas have what has been written so far to the server of `key`, which is written.

        How many: the address says, else one where there are any. Raises StoreError where they do not confirm
        in time: then it is written on the primary, and may be lost with it.
        """
        self._check()
        wanted = self.address.replicas
        try:
            node = self._node(key)
            if wanted is None:
                wanted = min(1, int(node.info("replication").get("connected_slaves", 0)))
            if wanted == 0:
                return
            # A connection waits for its own writes only, so it makes one, which comes after what was written.
            pipeline = node.pipeline(transaction=False)
            pipeline.execute_command("SET", key, "1")
            pipeline.execute_command("WAIT", wanted, int(ACKNOWLEDGE * 1000))
            confirmed = int(pipeline.execute()[1])
        except CLIENT_ERRORS as problem:
            raise store_error(self.place, problem, unknown=True) from problem
        if confirmed < wanted:
            raise StoreError(
                f"store {self.place}: {confirmed} of {wanted} replicas confirmed a decision within "
                f"{ACKNOWLEDGE:g} s; it is written on the primary and in force: read again, and mend the "
                "replicas, or lower ?replicas= in the address"
            )

    def eviction(self) -> list[str]:
        """What each server with a limit of memory does at it (maxmemory-policy), where it says so."""
        self._check()
        try:
            if self.address.kind == "cluster":
                nodes = [self._client.get_redis_connection(node) for node in self._client.get_primaries()]
            else:
                nodes = [self._client]
            told = [node.info("memory") for node in nodes]
        except NoPermissionError:
            return []
        except CLIENT_ERRORS as problem:
            raise store_error(self.place, problem) from problem
        return [str(one["maxmemory_policy"]) for one in told if int(one.get("maxmemory", 0))]

    def listen(self) -> Any:
        """A subscription to announcements of changed routes (redis.client.PubSub)."""
        self._check()
        subscription = self._client.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe(self.keys.channel)
        return subscription

    def close(self) -> None:
        """Let go of every connection; every later call raises."""
        self._closed = True
        if os.getpid() == self._process:
            self._client.close()
            if self.address.kind != "cluster":
                self._client.connection_pool.disconnect()

    def _node(self, key: str) -> Any:
        if self.address.kind != "cluster":
            return self._client
        return self._client.get_redis_connection(self._client.get_node_from_key(key))

    def _check(self) -> None:
        if self._closed:
            raise StoreError(f"store {self.place} is closed")
        if os.getpid() != self._process:
            raise StoreError(
                f"store {self.place} was opened before this process was forked: open it in this process"
            )


def _client(address: Address) -> Any:
    once_more = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    options: dict[str, Any] = {
        "username": address.user or None,
        "password": address.password or None,
        "socket_timeout": ANSWER,
        "socket_connect_timeout": CONNECT,
        "socket_keepalive": True,
        "retry": once_more,
        "protocol": 2,
    }
    secured: dict[str, Any] = {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": address.ca or None,
        "ssl_certfile": address.cert or None,
        "ssl_keyfile": address.key or None,
    }
    asking = {name: value for name, value in options.items() if name.startswith("socket_")}
    if address.tls:
        options |= secured
    if address.kind == "cluster":
        options["retry"] = Retry(ConstantBackoff(_CLUSTER_PAUSE), _CLUSTER_TRIES)
        node: Any = cluster.ClusterNode  # without types
        nodes = [node(host, port) for host, port in address.hosts]
        return redis.RedisCluster(startup_nodes=nodes, **options)
    options["db"] = address.database
    if address.kind == "unix":
        return redis.Redis(unix_socket_path=address.path, **options)
    if address.kind == "sentinel":
        asking |= {
            "username": address.sentinel_user or None,
            "password": address.sentinel_password or None,
            **(secured if address.sentinel_tls else {}),
        }
        make: Any = sentinel.Sentinel  # without types
        sentinels = make(list(address.hosts), sentinel_kwargs=asking, **options)
        return sentinels.master_for(address.name)
    host, port = address.hosts[0]
    return redis.Redis(host=host, port=port, **options)
