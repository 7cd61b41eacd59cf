"""Where a microsecond of a worker goes: perf for kernel and libraries, py-spy for our own functions."""

from __future__ import annotations

import re
import subprocess
import threading
from collections import Counter
from pathlib import Path

from . import parts
from .results import Profile, Share
from .rows import LARGE, Say, scene
from .sampling import Options, sample, wrk_of
from .scene import Scene, mirrors, route
from .started import ROOT, Failed
from .wrk import Wrk

_HERTZ = 997  # a prime, so that nothing periodic hides between samples
_TOP = 25
_PLACES = (
    (r"kernel|\[k\]|vdso", "kernel"),
    (r"^libpython|^python", "interpreter"),
    (r"^loop\.", "uvloop"),
    (r"^parser\.|^url_parser\.", "llhttp"),
    (r"^libssl|^libcrypto|^_ssl", "TLS"),
    (r"^_core\.|msgspec", "msgspec"),
    (r"xxhash", "xxhash"),
    (r"^libc[.-]|^ld-", "libc"),
    (r"^_struct|^_asyncio|^array|^_json|^_socket|^select", "extension modules"),
)


def profiles(options: Options, say: Say) -> list[Profile]:
    """Of a split request, one with a mirror, and an answer of 1 MiB."""
    found: list[Profile] = []
    with scene(options, large=LARGE) as made:
        for title, path, copies in (
            ("split + sticky + capture", "/p/predict", False),
            ("the same with a mirror", "/p/predict", True),
            ("answers of 1 MiB", "/p/large", False),
        ):
            wrk = wrk_of(made, made.folder, path)
            found.append(_profile(made, title, wrk, copies, options))
            say(f"  {title}: " + ", ".join(f"{s.name} {s.share:.0%}" for s in found[-1].parts[:4]))
    return found


def _profile(made: Scene, title: str, wrk: Wrk, copies: bool, options: Options) -> Profile:  # noqa: FBT001
    name = re.sub(r"\W", "", title)
    side = made.router(route(made.a, made.b, mirrors=mirrors(made.c) if copies else ()), name=name)
    us = sample(wrk, side, options.seconds, options.connections).us
    seconds = max(2.0, options.seconds)
    load = threading.Thread(target=lambda: wrk.load(side.port, 2 * seconds + 6, options.connections))
    load.start()
    try:
        shares, symbols, missing = _perf(made.folder / f"{name}.perf", side.workers[0], seconds, us)
        functions, lacking = _functions(made.folder / f"{name}.folded", side.workers[0], seconds, us)
    finally:
        load.join()
    return Profile(title, us, shares, symbols, functions, "; ".join(filter(None, (missing, lacking))))


def _perf(
    file: Path, pid: int, seconds: float, us: float
) -> tuple[tuple[Share, ...], tuple[Share, ...], str]:
    program = parts.optional("perf")
    if program is None:
        return (), (), "perf is not installed"
    record = [
        program, "record", "-q", "-e", "cpu-clock", "-F", str(_HERTZ), "-o", str(file), "-p", str(pid),
        "--", "sleep", f"{seconds:g}",
    ]  # fmt: skip
    try:
        _run(record)
        told = _run(
            [
                program,
                "report",
                "-i",
                str(file),
                "--stdio",
                "-t",
                "|",
                "--no-children",
                "--sort",
                "dso,symbol",
            ]
        )
    except Failed as problem:
        return (), (), f"perf cannot sample here ({problem})"
    places: Counter[str] = Counter()
    symbols: Counter[str] = Counter()
    for line in told.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if line.startswith("#") or len(fields) < 3 or not fields[0].endswith("%"):
            continue
        share = float(fields[0][:-1]) / 100
        place = _place(fields[1])
        places[place] += share  # type: ignore[assignment]
        symbols[f"{place}: {fields[2].removeprefix('[.] ').removeprefix('[k] ')}"] += share  # type: ignore[assignment]
    return _shares(places, us), _shares(symbols, us), ""


def _place(library: str) -> str:
    """What a shared object is; ours has the name of one of our modules where it is compiled."""
    ours = {path.stem for path in (ROOT / "router" / "proxy").glob("*.py")}
    if ".so" in library and (library.partition(".")[0] in ours or "mypyc" in library):
        return "compiled data path"
    return next((name for pattern, name in _PLACES if re.search(pattern, library)), "other")


def _functions(file: Path, pid: int, seconds: float, us: float) -> tuple[tuple[Share, ...], str]:
    program = parts.optional("py-spy")
    if program is None:
        return (), "py-spy is not installed"
    try:
        _run(
            [
                program, "record", "-p", str(pid), "-d", str(round(seconds)), "-r", "400", "-f", "raw",
                "--nonblocking", "--function", "-o", str(file),
            ]
        )  # fmt: skip
    except Failed as problem:
        return (), f"py-spy cannot sample here ({problem})"
    own: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        own[_function(stack.rsplit(";", 1)[-1])] += int(count)
    total = sum(own.values()) or 1
    return _shares(Counter({name: count / total for name, count in own.items()}), us), ""


def _function(frame: str) -> str:
    """`name (file)` without the path before our packages: a report names no folder of this machine."""
    match = re.match(r"(.+) \((.+?)(?::\d+)?\)$", frame)
    if match is None:
        return frame
    name, file = match.groups()
    inside = re.search(r"(?:router|store|policies)/[\w/]+\.py$", file)
    return f"{name} ({inside.group(0) if inside else Path(file).name})"


def _shares(counted: Counter[str], us: float) -> tuple[Share, ...]:
    return tuple(Share(name, float(share), float(share) * us) for name, share in counted.most_common(_TOP))


def _run(command: list[str]) -> str:
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if ran.returncode:
        raise Failed((ran.stderr.strip().splitlines() or ["no reason given"])[-1][:200])
    return ran.stdout
