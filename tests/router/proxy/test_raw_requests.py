"""Request smuggling, byte by byte: each case says what the client gets and what the upstream may see.

Every request is sent twice, whole and in segments of one byte, with a second request hidden behind it.
Beside it a canary on a connection of its own must keep getting its own answers.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from accede.router.facts import Placed
from accede.router.proxy.chunks import LONGEST_LINE, LONGEST_TRAILERS
from accede.router.proxy.heads import MAX_FIELDS, MAX_HEAD
from accede.store.routes import RouteReadiness
from tests.router.conftest import Connection, WorkerProcess, route
from tests.router.raw_upstream import Canary, RawUpstream, send_in

HIDDEN = b"GET /p/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
LINE = b"POST /p HTTP/1.1\r\n"
POST = LINE + b"Host: x\r\n"
GET = b"GET /p HTTP/1.1\r\nHost: x\r\n"
TE = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n"
LAST = b"0\r\n\r\n"
MAX_BODY = 100_000

REFUSED: dict[str, tuple[bytes, int]] = {
    # --- two framings
    "CL then TE": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE then CL": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "TE and CL 0": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400),
    "TE identity and CL": (POST + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", 400),
    "TE unknown and CL": (POST + b"Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n\r\nhello", 400),
    "TE empty and CL": (POST + b"Content-Length: 5\r\nTransfer-Encoding:\r\n\r\nhello", 400),
    # --- Content-Length
    "CL twice, equal": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "CL twice, different": (POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello", 400),
    "CL twice in two spellings": (POST + b"Content-Length: 5\r\ncONTENT-lENGTH: 6\r\n\r\nhello", 400),
    "CL list, equal": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "CL list, different": (POST + b"Content-Length: 5,6\r\n\r\nhello", 400),
    "CL with plus": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "CL with minus": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "CL hexadecimal": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "CL with underscore": (POST + b"Content-Length: 1_0\r\n\r\nhello", 400),
    "CL two numbers": (POST + b"Content-Length: 5 5\r\n\r\nhello", 400),
    "CL fraction": (POST + b"Content-Length: 5.0\r\n\r\nhello", 400),
    "CL exponent": (POST + b"Content-Length: 5e0\r\n\r\nhello", 400),
    "CL with parameter": (POST + b"Content-Length: 5;a\r\n\r\nhello", 400),
    "CL quoted": (POST + b'Content-Length: "5"\r\n\r\nhello', 400),
    "CL digits of another script": (POST + "Content-Length: ٥\r\n\r\nhello".encode(), 400),
    "CL leading zero": (POST + b"Content-Length: 010\r\n\r\nhellohello", 400),
    "CL empty": (POST + b"Content-Length:\r\n\r\n", 400),
    "CL blank": (POST + b"Content-Length: \t \r\n\r\n", 400),
    "CL over 64 bits": (POST + b"Content-Length: 18446744073709551621\r\n\r\nhello", 400),
    "CL endless": (POST + b"Content-Length: " + b"5" * 5000 + b"\r\n\r\nhello", 400),
    "CL with vertical tab": (POST + b"Content-Length: \x0b5\r\n\r\nhello", 400),
    "CL with CR": (POST + b"Content-Length: 5\r\r\n\r\nhello", 400),
    "CL with NUL": (POST + b"Content-Length: 5\0\r\n\r\nhello", 400),
    "CL with no-break space": (POST + b"Content-Length: \xa05\r\n\r\nhello", 400),
    "CL folded": (POST + b"Content-Length:\r\n 5\r\n\r\nhello", 400),
    "CL space before colon": (POST + b"Content-Length : 5\r\n\r\nhello", 400),
    "CL named by Connection": (POST + b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", 400),
    # --- Transfer-Encoding
    "TE identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "TE gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "TE gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "TE chunked, gzip": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 501),
    "TE chunked, chunked": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    "TE chunked, identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
    "TE xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "TE chunkedx": (POST + b"Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", 501),
    "TE with parameter": (POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 501),
    "TE quoted": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "TE with a tab inside": (POST + b"Transfer-Encoding: x\tchunked\r\n\r\n0\r\n\r\n", 501),
    "TE empty": (POST + b"Transfer-Encoding:\r\n\r\n", 501),
    "TE comma behind": (POST + b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 501),
    "TE comma before": (POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 501),
    "TE no-break space": (POST + b"Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n", 501),
    "TE vertical tab before": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "TE vertical tab behind": (POST + b"Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n", 400),
    "TE form feed": (POST + b"Transfer-Encoding:\x0cchunked\r\n\r\n0\r\n\r\n", 400),
    "TE NUL behind": (POST + b"Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n", 400),
    "TE CR behind": (POST + b"Transfer-Encoding: chunked\r\r\n\r\n0\r\n\r\n", 400),
    "TE twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE twice, other": (POST + b"Transfer-Encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n", 400),
    "TE twice, identity": (POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "TE in 1.0": (b"POST /p HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE folded": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "TE folded by tab": (POST + b"Transfer-Encoding: chunked\r\n\tx\r\n\r\n0\r\n\r\n", 400),
    "TE space before colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "TE tab before colon": (POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE leading space": (POST + b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE behind a bare LF": (POST + b"A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE behind a bare CR": (POST + b"A: b\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE behind a NUL": (POST + b"A: b\0Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE without colon": (POST + b"Transfer-Encoding chunked\r\n\r\n0\r\n\r\n", 400),
    "TE in a name with high bytes": (POST + b"Transfer-Encoding\xff: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE named by Connection": (
        POST + b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    # --- lines and fields
    "bare LF after the request line": (b"GET /p HTTP/1.1\nHost: x\r\n\r\n", 400),
    "bare LF after a field": (b"GET /p HTTP/1.1\r\nHost: x\n\r\n", 400),
    "bare LF everywhere": (b"GET /p HTTP/1.1\nHost: x\n\n", 400),
    "bare CR in the request line": (b"GET /p\r HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "bare CR in a value": (GET + b"A: b\rc\r\n\r\n", 400),
    "bare CR in a name": (GET + b"A\rb: c\r\n\r\n", 400),
    "NUL in the request line": (b"GET /p\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "NUL in a name": (GET + b"A\0b: c\r\n\r\n", 400),
    "NUL in a value": (GET + b"A: b\0c\r\n\r\n", 400),
    "control character in a value": (GET + b"A: b\x01c\r\n\r\n", 400),
    "DEL in a value": (GET + b"A: b\x7fc\r\n\r\n", 400),
    "space before the colon": (GET + b"A : b\r\n\r\n", 400),
    "fold": (GET + b"A: b\r\n c\r\n\r\n", 400),
    "fold on the first field": (b"GET /p HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "fold of nothing": (GET + b"A: b\r\n \r\n\r\n", 400),
    "empty name": (GET + b": b\r\n\r\n", 400),
    "no colon": (GET + b"A\r\n\r\n", 400),
    "name with brackets": (GET + b"A(b): c\r\n\r\n", 400),
    "leading space": (b" GET /p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "leading bare LF": (b"\nGET /p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "leading bare CR": (b"\rGET /p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    # --- Host and target
    "no Host": (b"GET /p HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (GET + b"Host: x\r\n\r\n", 400),
    "two Hosts, different": (GET + b"hOST: y\r\n\r\n", 400),
    "Host list": (b"GET /p HTTP/1.1\r\nHost: x, y\r\n\r\n", 400),
    "Host with user": (b"GET /p HTTP/1.1\r\nHost: u@x\r\n\r\n", 400),
    "Host with path": (b"GET /p HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
    "Host with space": (b"GET /p HTTP/1.1\r\nHost: x y\r\n\r\n", 400),
    "Host with a word as port": (b"GET /p HTTP/1.1\r\nHost: x:http\r\n\r\n", 400),
    "Host with two ports": (b"GET /p HTTP/1.1\r\nHost: x:80:81\r\n\r\n", 400),
    "Host of half an address": (b"GET /p HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "Host with high bytes": (b"GET /p HTTP/1.1\r\nHost: \xe9\r\n\r\n", 400),
    "Host with backslash": (b"GET /p HTTP/1.1\r\nHost: x\\y\r\n\r\n", 400),
    "Host named by Connection": (GET + b"Connection: host\r\n\r\n", 400),
    "another authority in the target": (b"GET http://y/p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a user in the target": (b"GET http://u@x/p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "an authority and an empty Host": (b"GET http://y/p HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "an authority beside a Host with backslash": (b"GET http://x\\@y/p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "another scheme": (b"GET ftp://x/p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "relative target": (b"GET p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "fragment": (b"GET /p#/q HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "empty target": (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "space in the target": (b"GET /p q HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "tab in the line": (b"GET\t/p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two spaces": (b"GET  /p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "space at the end of the line": (b"GET /p HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    "request in the target": (b"GET /p HTTP/1.1 GET /p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "high bytes in the target": (b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "method with brackets": (b"G(T /p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "no method": (b" /p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "tunnel": (b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 501),
    # --- versions
    "no version": (b"GET /p\r\nHost: x\r\n\r\n", 400),
    "version 0.9": (b"GET /p HTTP/0.9\r\nHost: x\r\n\r\n", 505),
    "version 1.2": (b"GET /p HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    "version 2.0": (b"GET /p HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "version 1.10": (b"GET /p HTTP/1.10\r\nHost: x\r\n\r\n", 400),
    "version with a zero": (b"GET /p HTTP/01.1\r\nHost: x\r\n\r\n", 505),
    "version in small letters": (b"GET /p http/1.1\r\nHost: x\r\n\r\n", 400),
    "version with a space": (b"GET /p HTTP /1.1\r\nHost: x\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    # --- sizes
    "long target": (
        b"GET /p/" + b"a" * (MAX_HEAD - 40) + b" HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 80 + b"\r\n\r\n", 431,
    ),
    "long value": (GET + b"A: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
    "long name": (GET + b"x" * MAX_HEAD + b": a\r\n\r\n", 431),
    "head without an end": (GET + b"A: b\r\n" * (MAX_HEAD // 6), 431),
    "too many fields": (GET + b"A: b\r\n" * MAX_FIELDS + b"\r\n", 431),
    "declared too large": (POST + b"Content-Length: 100001\r\n\r\n", 413),
    # --- expectations
    "another expectation": (POST + b"Content-Length: 5\r\nExpect: 200-ok\r\n\r\nhello", 417),
    "two expectations": (
        POST + b"Content-Length: 5\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\r\nhello",
        417,
    ),
}  # fmt: skip

# The head was fine and has gone on; what the upstream sees of the body ends where it is still right.
WORDY = b"1;a=%b\r\nx\r\n" % (b"y" * 1000) * 200
PILED = (b"5dc\r\n" + b"x" * 1500 + b"\r\n") * 70
TRAILED = b"0\r\n" + b"A: b\r\n" * (LONGEST_TRAILERS // 6 + 1)
BODIES: dict[str, tuple[bytes, int, bytes]] = {
    "no size": (b"\r\nhello\r\n" + LAST, 400, b""),
    "negative size": (b"-5\r\nhello\r\n" + LAST, 400, b""),
    "signed size": (b"+5\r\nhello\r\n" + LAST, 400, b""),
    "0x size": (b"0x5\r\nhello\r\n" + LAST, 400, b""),
    "size with underscore": (b"1_0\r\nhello\r\n" + LAST, 400, b""),
    "size no number": (b"zz\r\n" + LAST, 400, b""),
    "size over 64 bits": (b"10000000000000005\r\nhello\r\n" + LAST, 400, b""),
    "size of many zeros": (b"0" * 40 + b"5\r\nhello\r\n" + LAST, 400, b""),
    "space before the size": (b" 5\r\nhello\r\n" + LAST, 400, b""),
    "space behind the size": (b"5 \r\nhello\r\n" + LAST, 400, b""),
    "tab behind the size": (b"5\t\r\nhello\r\n" + LAST, 400, b""),
    "size ended by LF": (b"5\nhello\r\n" + LAST, 400, b""),
    "size ended by CR": (b"5\rhello\r\n" + LAST, 400, b""),
    "size ended by CR CR LF": (b"5\r\r\nhello\r\n" + LAST, 400, b""),
    "NUL behind the size": (b"5\0\r\nhello\r\n" + LAST, 400, b""),
    "extension with a bare LF": (b"5;a\nhello\r\n" + LAST, 400, b""),
    "extension with a bare CR": (b"5;a\rb\r\nhello\r\n" + LAST, 400, b""),
    "extension with a NUL": (b"5;a\0\r\nhello\r\n" + LAST, 400, b""),
    "extension without a name": (b"5;\r\nhello\r\n" + LAST, 400, b""),
    "extension without a value": (b"5;a=\r\nhello\r\n" + LAST, 400, b""),
    "extension behind a space": (b"5 ;a\r\nhello\r\n" + LAST, 400, b""),
    "extension with an open quote": (b'5;a="b\r\nhello\r\n' + LAST, 400, b""),
    "extension with a quoted CRLF": (b'5;a="\r\nhello\r\n"\r\n' + LAST, 400, b""),
    "extension behind a quote": (b'5;a="b"c\r\nhello\r\n' + LAST, 400, b""),
    "extension in brackets": (b"5;(a)\r\nhello\r\n" + LAST, 400, b""),
    "no semicolon": (b"5 a=b\r\nhello\r\n" + LAST, 400, b""),
    "long extension": (b"5;a=" + b"x" * LONGEST_LINE + b"\r\nhello\r\n" + LAST, 400, b""),
    "many extensions": (WORDY + LAST, 400, WORDY),
    "chunk too long": (b"5\r\nhello!\r\n" + LAST, 400, b"5\r\nhello"),
    "chunk too short": (b"6\r\nhello\r\n" + LAST, 400, b"6\r\nhello\r"),
    "no CRLF behind a chunk": (b"5\r\nhello" + LAST, 400, b"5\r\nhello"),
    "LF behind a chunk": (b"5\r\nhello\n" + LAST, 400, b"5\r\nhello"),
    "CR behind a chunk": (b"5\r\nhello\r" + LAST, 400, b"5\r\nhello"),
    "second size wrong": (HELLO + b"g\r\n", 400, HELLO),
    "last chunk ended by LF": (HELLO + b"0\n\r\n", 400, HELLO),
    "end by LF": (HELLO + b"0\r\n\n", 400, HELLO + b"0\r\n"),
    "end by CR": (HELLO + b"0\r\n\rG", 400, HELLO + b"0\r\n"),
    "no end": (HELLO + b"0\r\n", 400, HELLO + b"0\r\n"),
    "trailer without colon": (HELLO + b"0\r\nA\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer with space before colon": (HELLO + b"0\r\nA : b\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer with empty name": (HELLO + b"0\r\n: b\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer folded": (HELLO + b"0\r\nA: b\r\n c\r\n\r\n", 400, HELLO + b"0\r\nA: b\r\n"),
    "trailer with bare LF": (HELLO + b"0\r\nA: b\nC: d\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer with bare CR": (HELLO + b"0\r\nA: b\rC: d\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer with NUL": (HELLO + b"0\r\nA: b\0\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer Content-Length": (HELLO + b"0\r\nContent-Length: 5\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer content_length": (HELLO + b"0\r\ncontent_length: 5\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer Transfer-Encoding": (HELLO + b"0\r\ntransfer-encoding: x\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer Host": (HELLO + b"0\r\nHOST: y\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer Connection": (HELLO + b"0\r\nConnection: close\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer of ours": (HELLO + b"0\r\nX-Accede-Arm: candidate\r\n\r\n", 400, HELLO + b"0\r\n"),
    "trailer Authorization": (HELLO + b"0\r\nAuthorization: x\r\n\r\n", 400, HELLO + b"0\r\n"),
    "long trailer": (b"0\r\nA: " + b"x" * LONGEST_LINE + b"\r\n\r\n", 400, b"0\r\n"),
    "endless trailers": (TRAILED, 431, TRAILED),
    "too large": (b"186a1\r\n" + b"x" * 100_001 + b"\r\n" + LAST, 413, b"186a1\r\n" + b"x" * 100_001),
    "too large in pieces": (PILED + LAST, 413, PILED),
}  # fmt: skip


class Taken(NamedTuple):
    """An accepted request, what goes on of it (None: all), and whether another may follow."""

    sent: bytes
    forwarded: bytes | None = None
    keeps: bool = True


HELLO_BY_CL = POST + b"Content-Length: 5\r\n\r\nhello"
HELLO_BY_TE = POST + b"transfer-encoding: chunked\r\n\r\n" + HELLO + LAST
ONE_HOP = (
    b"Connection: X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\n"
)
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
TAKEN: dict[str, Taken] = {
    "CL": Taken(HELLO_BY_CL),
    "CL 0": Taken(POST + b"Content-Length: 0\r\n\r\n"),
    "CL with blanks around": Taken(POST + b"Content-Length: \t 5 \t\r\n\r\nhello"),
    "CL without a blank": Taken(POST + b"Content-Length:5\r\n\r\nhello"),
    "CL with an underscore goes no further": Taken(
        POST + b"Content_Length: 50\r\nContent-Length: 5\r\n\r\nhello", HELLO_BY_CL
    ),
    "TE with an underscore goes no further": Taken(
        POST + b"transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", HELLO_BY_CL
    ),
    "a whole request as body": Taken(POST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN),
    "a whole request as a GET's body": Taken(GET + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN),
    "TE": Taken(TE + HELLO + LAST),
    "TE with blanks around": Taken(
        POST + b"Transfer-Encoding: \t chunked \t\r\n\r\n" + HELLO + LAST, HELLO_BY_TE
    ),
    "TE in large letters": Taken(POST + b"Transfer-Encoding: CHUNKED\r\n\r\n" + HELLO + LAST, HELLO_BY_TE),
    "TE of a GET": Taken(GET + b"Transfer-Encoding: chunked\r\n\r\n" + LAST),
    "a whole request as a chunk": Taken(TE + b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + LAST),
    "extensions": Taken(TE + b'5;a;b=c;d="e;\\"f"\r\nhello\r\n0;g\r\n\r\n'),
    "size with zeros in front": Taken(TE + b"0005\r\nhello\r\n00\r\n\r\n"),
    "trailers": Taken(TE + HELLO + b"0\r\nDigest: x\r\n\r\n"),
    "empty lines before the request": Taken(b"\r\n\r\n" + GET + b"\r\n", GET + b"\r\n"),
    "h2c is not offered": Taken(GET + H2C + b"\r\n", GET + b"\r\n"),
    "fields of one hop": Taken(GET + ONE_HOP + b"\r\n", GET + b"\r\n"),
    "fields of ours": Taken(
        GET + b"X-Accede-Arm: candidate\r\nx_accede_arm: candidate\r\n\r\n", GET + b"\r\n"
    ),
    "an id that is two": Taken(GET + b"X-Request-Id: a\r\nX-Request-Id: b\r\n\r\n", GET + b"\r\n"),
    "absolute form": Taken(b"GET http://x/p HTTP/1.1\r\nHost: x\r\n\r\n", GET + b"\r\n"),
    "1.0 that keeps": Taken(b"GET /p HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", GET + b"\r\n"),
    "1.0": Taken(b"GET /p HTTP/1.0\r\nHost: x\r\n\r\n", GET + b"\r\n", keeps=False),
    "1.0 without a Host": Taken(
        b"GET /p HTTP/1.0\r\n\r\n", b"GET /p HTTP/1.1\r\nhost: \r\n\r\n", keeps=False
    ),
    "close": Taken(GET + b"Connection: close\r\n\r\n", GET + b"\r\n", keeps=False),
    "close among others": Taken(GET + b"Connection: keep-alive, CLOSE\r\n\r\n", GET + b"\r\n", keeps=False),
}

CUTS = ("whole", "bytes")
_LONG = 4000  # bytes beyond which single-byte segments would only take time


class Bench:
    """A worker between raw clients and a recording upstream, with a canary beside."""

    def __init__(self, worker: WorkerProcess, upstream: RawUpstream) -> None:
        self.worker = worker
        self.upstream = upstream
        self.canary = Canary(worker.port)
        self._clients: list[Connection] = []

    def connect(self) -> Connection:
        """A client's connection, closed with the next one or at the end."""
        self.disconnect()
        self._clients.append(Connection(self.worker.port))
        return self._clients[-1]

    def disconnect(self) -> None:
        """Close the clients' connections."""
        while self._clients:
            self._clients.pop().close()

    def arrived(self, mark: list[int]) -> bytes:
        """What the upstream got since `mark` on whichever connections, but for the canary's song."""
        sung = self.canary.sing()
        pieces = self.upstream.since(mark)
        assert [piece for piece in pieces if sung in piece], pieces
        return b"".join(piece.replace(sung, b"") for piece in pieces)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    upstream = RawUpstream()
    worker = WorkerProcess(tmp_path_factory.mktemp("raw"))
    worker.apply(Placed(route(upstream.url, max_body=MAX_BODY, readiness=RouteReadiness(probe=False)), 0))
    running = Bench(worker, upstream)
    yield running
    running.canary.close()
    running.disconnect()
    errors = worker.stop()
    upstream.close()
    assert errors == ""


def _sent(data: bytes, cut: str) -> str:
    return cut if len(data) < _LONG else "whole"


def _ends(client: Connection) -> bool:
    """Whether the other side says nothing more, and closes."""
    assert client.buffer == b"", client.buffer
    with contextlib.suppress(OSError):
        client.socket.shutdown(socket.SHUT_WR)
    return not client.more()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("case", REFUSED)
def test_ambiguous_heads_reach_no_upstream(bench: Bench, case: str, cut: str) -> None:
    data, status = REFUSED[case]
    mark = bench.upstream.mark()
    client = bench.connect()
    send_in(client, data + HIDDEN, _sent(data, cut))
    answer = client.answer()
    assert (answer.status, answer.field("connection")) == (status, "close")
    assert _ends(client)
    assert bench.arrived(mark) == b""


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("case", BODIES)
def test_a_body_goes_on_only_as_far_as_it_is_right(bench: Bench, case: str, cut: str) -> None:
    body, status, right = BODIES[case]
    mark = bench.upstream.mark()
    client = bench.connect()
    send_in(client, TE + body + HIDDEN, _sent(body, cut))
    answer = client.answer()
    assert (answer.status, answer.field("connection")) == (status, "close")
    assert _ends(client)
    arrived = bench.arrived(mark)
    assert (TE + right).startswith(arrived)
    assert b"hidden" not in arrived


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("case", TAKEN)
def test_what_is_taken_goes_on_exactly_and_ends_where_it_ends(bench: Bench, case: str, cut: str) -> None:
    taken = TAKEN[case]
    mark = bench.upstream.mark()
    client = bench.connect()
    send_in(client, taken.sent + HIDDEN, _sent(taken.sent, cut))
    answer = client.answer()
    forwarded = taken.sent if taken.forwarded is None else taken.forwarded
    line, body = forwarded.partition(b"\r\n")[0], forwarded.partition(b"\r\n\r\n")[2]
    assert (answer.status, answer.body) == (200, line + b"|" + body)
    if taken.keeps:
        behind = client.answer()
        assert behind.body == b"GET /p/hidden HTTP/1.1|"
    assert _ends(client)
    assert bench.arrived(mark) == forwarded + (HIDDEN if taken.keeps else b"")


def test_after_a_large_last_answer_nothing_pipelined_is_run(bench: Bench) -> None:
    """The answer fills the client's buffers, so the connection's end has to wait for them to empty."""
    large = b"x" * (8 << 20)
    bench.upstream.script(b"/p/large", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large)
    mark = bench.upstream.mark()
    client = bench.connect()
    client.send(b"GET /p/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + HIDDEN)
    got = bytearray()
    while data := client.socket.recv(1 << 16):
        got += data
        select.select([], [], [], 0.0005)  # slower than they come
    assert got.partition(b"\r\n\r\n")[2] == large
    assert b"hidden" not in bench.arrived(mark)


def test_a_line_without_an_end_is_a_target_too_long(bench: Bench) -> None:
    client = bench.connect()
    client.send(b"GET /p/" + b"a" * MAX_HEAD)
    assert client.answer().status == 414
    assert _ends(client)


def test_bytes_behind_a_body_are_judged_as_a_request_of_their_own(bench: Bench) -> None:
    mark = bench.upstream.mark()
    client = bench.connect()
    sent = POST + b"Content-Length: 5\r\n\r\nhello"
    client.send(sent + b"0\r\n\r\n" + HIDDEN)
    assert client.answer().status == 200
    assert client.answer().status == 400
    assert _ends(client)
    assert bench.arrived(mark) == sent


def test_many_refusals_that_keep_the_connection_stay_in_order(bench: Bench) -> None:
    mark = bench.upstream.mark()
    client = bench.connect()
    client.send(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 3000 + HIDDEN)
    assert [client.answer().status for _ in range(3000)] == [404] * 3000
    assert client.answer().body == b"GET /p/hidden HTTP/1.1|"
    assert _ends(client)
    assert bench.arrived(mark) == HIDDEN
