"""The control socket between a parent and its children."""

from __future__ import annotations

import asyncio
import resource
import socket

from accede.router.control import ControlLink
from accede.router.facts import Drain, Message, Placed, Table, decode_message
from tests.router.conftest import route


def test_a_child_that_does_not_read_costs_two_tables_and_gets_the_newest() -> None:
    placed = tuple(Placed(route("http://127.0.0.1:9", service=f"s{each}"), -1) for each in range(300))
    tables = 100

    def highest() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    async def run() -> tuple[list[Message], int]:
        ours, theirs = socket.socketpair()
        link = ControlLink(lambda _: None, lambda: None)
        await link.open(ours.detach())
        before = highest()
        for number in range(tables):  # 0.3 MiB each
            link.send(Table(number, placed))
        link.send(Drain())
        grown = highest() - before
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        got: list[Message] = []
        while len(got) < 3:
            size = int.from_bytes(await reader.readexactly(4), "big")
            got.append(decode_message(await reader.readexactly(size)))
        link.close()
        rest = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert rest == b""
        return got, grown

    got, grown = asyncio.run(run())
    numbers = [message.number if isinstance(message, Table) else None for message in got]
    assert numbers == [0, None, tables - 1]
    assert grown < 16 * 2**20
