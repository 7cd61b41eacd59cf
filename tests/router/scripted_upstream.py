"""A model server that does what the request's `x-script` header (or the second argument) says.

Usage: scripted_upstream.py NAME [DEFAULT-SCRIPT]; prints its port, then serves until killed.
A path below /as/SCRIPT says it as well. `GET /_seen` answers with what it got so far, `GET /_last` with the
latest request alone.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys

NAME = sys.argv[1]
DEFAULT = sys.argv[2] if len(sys.argv) > 2 else "echo"
SEEN: list[dict[str, object]] = []
OPEN = [0]

FIXED = {
    "nan": b'{"predictions": [NaN, Infinity, -Infinity, 1.0]}',
    "dup": b'{"predictions":[1],"predictions":[2],  "x" : 1e400}',
    "gzip": gzip.compress(b'{"predictions": [0.25]}', mtime=0),
    "big": bytes(range(256)) * 4096,
}


def head(status: str, *fields: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"X-Served-By: {NAME}", *fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readline() != b"\r\n":
            pass
        return body
    return await reader.readexactly(int(headers.get("content-length", "0")))


async def act(script: str, body: bytes, method: str, writer: asyncio.StreamWriter) -> bool:  # noqa: C901, PLR0912
    """Answer; False to close the connection."""
    word, _, rest = script.partition("=")
    if word in FIXED:
        extra = ["Content-Encoding: gzip"] if word == "gzip" else []
        writer.write(
            head("200 OK", "Content-Type: application/json", *extra, length=len(FIXED[word])) + FIXED[word]
        )
    elif word == "status":
        answer = json.dumps({"error": f"scripted {rest}"}).encode()
        writer.write(head(f"{rest} Scripted Reason", length=len(answer)) + answer)
    elif word == "status-chunked":  # its body comes a little later
        writer.write(head(f"{rest} Scripted Reason", "Transfer-Encoding: chunked"))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"6\r\nbroken\r\n0\r\n\r\n")
    elif word == "status-long":
        writer.write(head(f"{rest} Scripted Reason", length=1 << 20) + b"x" * (1 << 20))
    elif word == "status-stalled":  # its body never ends
        writer.write(head(f"{rest} Scripted Reason", length=100) + b"x")
        await asyncio.sleep(3600)
    elif word == "tensors":
        fields = ("Inference-Header-Content-Length: 2", "Content-Type: application/octet-stream")
        writer.write(head("200 OK", *fields, length=len(body)) + body)
    elif word == "empty":  # 204, 304
        writer.write(head(f"{rest} Nothing", 'ETag: "x"'))
    elif word == "chunked":
        writer.write(head("200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum"))
        for piece in (b'{"predictions"', b": [1, 2,", b" 3]}"):
            writer.write(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"0\r\nX-Sum: 7\r\n\r\n")
    elif word == "sse":
        writer.write(head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
        for number in range(int(rest)):
            piece = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")
    elif word == "pieces":  # so many of a byte each, that come one by one
        writer.write(head("200 OK", length=int(rest)))
        for _ in range(int(rest)):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.002)
    elif word == "hang":
        await asyncio.sleep(float(rest or 3600))
        return False
    elif word == "slow":
        await asyncio.sleep(float(rest))
        writer.write(head("200 OK", length=2) + b"ok")
    elif word == "truncate":
        writer.write(head("200 OK", length=100) + b"x" * 10)
        await writer.drain()
        return False
    elif word == "stall":  # begins a long answer and goes on only when killed
        writer.write(head("200 OK", length=100) + b"x" * 10)
        await asyncio.sleep(3600)
    elif word == "truncate-chunked":
        writer.write(head("200 OK", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
        await writer.drain()
        return False
    elif word == "extra":
        writer.write(head("200 OK", length=2) + b"okHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    elif word == "until-close":
        writer.write(head("200 OK", "Connection: close") + b"as long as it lasts")
        return False
    elif word == "close-silently":
        return False
    elif word == "hints":
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + head("200 OK", length=2) + b"ok")
    elif word == "garbage":
        writer.write(b"this is not HTTP\r\n\r\n")
    elif word == "spoof":
        spoofed = (
            "X-Accede-Arm: candidate",
            "x-request-id: theirs",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
        )
        writer.write(head("200 OK", *spoofed, length=2) + b"ok")
    elif word == "early":  # answers before the body has come
        writer.write(head("403 Early", length=5) + b"early")
    else:
        answer = b"" if method == "HEAD" else body
        writer.write(head("200 OK", "Content-Type: application/json", length=len(body)) + answer)
    await writer.drain()
    return True


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    OPEN[0] += 1
    answered = 0
    try:
        while line := (await reader.readline()).decode("latin-1").strip():
            headers: dict[str, str] = {}
            raw: list[str] = []
            while (field := (await reader.readline()).decode("latin-1").rstrip("\r\n")) != "":
                name, _, value = field.partition(":")
                headers[name.lower()] = value.strip()
                raw.append(field)
            method, target, _ = line.split(" ")
            script = headers.get("x-script", DEFAULT)
            if target.startswith("/as/"):  # an address of its own for each script: http://host:port/as/SCRIPT
                script = target.split("/")[2]
            if target in {"/_seen", "/_last"}:
                answer = json.dumps(SEEN if target == "/_seen" else SEEN[-1:]).encode()
                writer.write(head("200 OK", length=len(answer)) + answer)
                await writer.drain()
                continue
            if script == "early-500":
                writer.write(head("500 Early", length=5) + b"early")
                break
            if script == "early":
                await act(script, b"", method, writer)
                await read_body(reader, headers)
                continue
            if headers.get("expect") == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await read_body(reader, headers)
            SEEN.append(
                {
                    "line": line,
                    "headers": headers,
                    "raw": raw,
                    "size": len(body),
                    "text": body[:2048].decode("latin-1"),
                }
            )
            if script == "once" and answered:  # as if the connection had been closed while it idled
                break
            answered += 1
            if not await act(script, body, method, writer):
                break
    except (ConnectionError, asyncio.IncompleteReadError, ValueError):
        pass
    finally:
        OPEN[0] -= 1
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(
        serve, "127.0.0.1", int(os.environ.get("UPSTREAM_PORT", "0")), limit=2**22
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
