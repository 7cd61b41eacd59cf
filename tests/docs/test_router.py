"""What docs/router.md states is what the code has: keys, flags, bounds, and the tests that it names."""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.core

from accede.policies.later import LATER_KEYS
from accede.policies.network import Balance, Forwarding, Override, Readiness, Tls
from accede.policies.policy import Breaker, RolloutPolicy
from accede.policies.quantities import Value
from accede.policies.reading import keys_of
from accede.policies.schema import policy_schema, service_schema
from accede.policies.service import (
    Capture,
    Input,
    Limits,
    Match,
    Mirror,
    ModelService,
    Recording,
    Unit,
)
from accede.store.routes import ServiceRoute

ROOT = Path(__file__).resolve().parents[2]
REFERENCE: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "reference.py"))
TEXT = (ROOT / "docs" / "router.md").read_text(encoding="utf-8")

# Everything in a ServiceRoute, with the key of a file that sets it; None: the controller's own.
KEY_OF: dict[str, str | None] = {
    "wire": None, "generation": None, "plan": None,
    "service": "name", "path": "match.path", "host": "match.host", "protocol": "protocol",
    "arms": "versions", "mirrors": "mirror.max_in_flight",
    "unit_header": "unit.header", "unit_cookie": "unit.cookie", "unit_path": "unit.path",
    "missing_unit": "unit.missing", "salt": "unit.salt", "side_effects": "side_effects",
    "deadline": "limits.deadline", "first_byte": "limits.first_byte", "idle": "limits.idle",
    "max_body": "limits.body", "capture_request": "capture.request",
    "capture_response": "capture.response", "capture_sample": "capture.sample",
    "errors": "errors.status", "breaker": "breaker.errors", "unattended": "unattended",
    "fallback": "fallback", "balance": "balance.by", "readiness": "readiness.probe",
    "forward_client": "forwarding.client", "via": "forwarding.via", "override": "override.token",
    "recording": "recording.sample",
}  # fmt: skip
# What a mapping of a file holds, by what stands before its keys: each of them is documented.
WHOLE: dict[str, type[Value]] = {
    "match": Match, "unit": Unit, "limits": Limits, "capture": Capture, "mirror": Mirror, "balance": Balance,
    "readiness": Readiness, "forwarding": Forwarding, "override": Override, "inputs.NAME": Input,
    "recording": Recording, "versions.NAME.tls": Tls, "breaker": Breaker,
}  # fmt: skip


def section(title: str) -> str:
    """A section of the page, with those below it."""
    level = next(line.partition(" ")[0] for line in TEXT.splitlines() if line.endswith(f"# {title}"))
    text = TEXT.partition(f"\n{level} {title}\n")[2]
    return re.split(rf"^#{{2,{len(level)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str, cells: int) -> list[tuple[str, ...]]:
    """The rows of all tables of a section, without their heads."""
    found: list[tuple[str, ...]] = []
    for table in re.findall(r"(?:^\|.*\n)+", section(title), re.MULTILINE):
        for line in table.splitlines()[2:]:
            row = tuple(cell.strip() for cell in line.strip("|").split(" | "))
            assert len(row) == cells, line
            found.append(row)
    return found


KEYS = [(key.strip("`"), default) for key, default, _, _ in rows("Settings of a service", 4)]
FLAGS = {flag.strip("`"): default for flag, default, _, _ in rows("Flags", 4)}
BOUNDS = [(name.strip("`"), value) for _, value, name, _ in rows("Bounds in the code", 4)]


# --- keys of files


def places() -> Iterator[tuple[str, type[Value], dict[str, Any]]]:
    """(what stands before its keys, model, schema) of every mapping in both kinds of file."""
    for kind, schema in ((ModelService, service_schema()), (RolloutPolicy, policy_schema())):
        for where, model in REFERENCE["sections"](kind):
            yield where, model, schema if model is kind else schema["$defs"][model.__name__]


def default_of(key: str) -> str:
    """The default of a key as the reference of files shows it."""
    for where, model, shape in places():
        name = keys_of(model).get(key.removeprefix(where)) if key.startswith(where) else None
        if name is not None:
            last = key.removeprefix(where)
            required = last in shape.get("required", [])
            return str(
                REFERENCE["default_of"](
                    model.model_fields[name], shape["properties"][last], required=required
                )
            )
    raise LookupError(f"no file has the key {key}")


@pytest.mark.parametrize(("key", "default"), KEYS)
def test_a_key_has_the_default_that_is_stated(key: str, default: str) -> None:
    assert default_of(key) == default


def test_every_field_of_a_route_that_a_file_sets_is_there() -> None:
    assert set(KEY_OF) == set(ServiceRoute.__struct_fields__)
    assert {key for key in KEY_OF.values() if key is not None} <= dict(KEYS).keys()


@pytest.mark.parametrize("where", WHOLE)
def test_every_key_of_a_mapping_that_the_router_obeys_is_there(where: str) -> None:
    model = WHOLE[where]
    wanted = {f"{where}.{key}" for key in keys_of(model).keys() - LATER_KEYS.get(model, {}).keys()}
    assert wanted <= dict(KEYS).keys()


def test_every_setting_and_every_bound_has_its_reason() -> None:
    for title in ("Settings of a service", "Flags", "Bounds in the code"):
        assert all(all(row) for row in rows(title, 4)), title


# --- flags


def test_every_flag_has_the_default_that_is_stated() -> None:
    commands: dict[str, typer.core.TyperCommand] = REFERENCE["commands"]()
    options = {one.opts[0]: one for one in REFERENCE["options"](commands["router"])}
    assert FLAGS.keys() == options.keys()
    for name, option in options.items():
        value = option.default
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        assert FLAGS[name] == (f"`{shown}`" if value not in {None, ""} else "none"), name
    served = {one.opts[0]: one.default for one in REFERENCE["options"](commands["serve"])}
    for name, option in options.items():
        alone = name in {"--replica", "--store", "--probe-host", "--probe-port"}  # of routers alone
        assert alone or served[name] == option.default, name


# --- bounds

_SIZES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def number(written: str) -> float:
    """A value of the page: `32 KiB`, `10 %`, `65 536`, `0.25 s`, `1 in 16 of it`."""
    share = re.fullmatch(r"1 in (\d+) of it", written)
    if share is not None:
        return float(share[1])
    found = re.fullmatch(r"([0-9][0-9 ]*(?:\.[0-9]+)?)(?: (KiB|MiB|GiB|s|%))?", written)
    assert found is not None, written
    value = float(found[1].replace(" ", ""))
    if found[2] == "%":
        return value / 100
    return value * _SIZES.get(found[2] or "", 1)


def in_code(name: str) -> float:
    """The value of `module.CONSTANT` or `module.Struct.field` below accede.router."""
    parts = name.split(".")
    at = next(index for index, part in enumerate(parts) if part.strip("_")[0].isupper())
    thing: Any = getattr(importlib.import_module(".".join(("accede.router", *parts[:at]))), parts[at])
    if at == len(parts) - 1:
        return float(thing)
    (default,) = (field.default for field in msgspec.structs.fields(thing) if field.name == parts[-1])
    return float(default)


@pytest.mark.parametrize(("name", "value"), BOUNDS)
def test_a_bound_is_the_one_in_the_code(name: str, value: str) -> None:
    assert in_code(name) == pytest.approx(number(value))


def test_every_time_of_a_workers_connections_is_there() -> None:
    config: Any = importlib.import_module("accede.router.proxy.worker").WorkerConfig
    times = {field.name for field in msgspec.structs.fields(config) if isinstance(field.default, float)}
    named = {name.rpartition(".")[2] for name, _ in BOUNDS}
    assert times - {"drain_timeout"} <= named  # a flag


# --- what is promised


def test_every_guarantee_names_tests_that_exist() -> None:
    guarantees = rows("Guarantees", 2)
    assert len(guarantees) > 10
    for guarantee, tests in guarantees:
        named = re.findall(r"`(tests/[a-z0-9_/]+\.py)`", tests)
        assert named, guarantee
        for path in named:
            assert "def test_" in (ROOT / path).read_text(encoding="utf-8"), path


@pytest.mark.parametrize("page", ["router.md", "decisions/0005-own-head-parser.md", "operating.md"])
def test_files_that_are_named_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:tests|scripts|router|controller|benchmarks)/[A-Za-z0-9_/.-]+)`", text):
        if path.startswith("router/") and re.search(r"\.(json|sock|key)$|counters|lock|SERVICE", path):
            continue  # below the data directory
        assert (ROOT / path).exists(), path


def test_every_status_of_the_routers_own_is_in_the_table_of_failures() -> None:
    sources = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "router" / "proxy").glob("*.py"))
    calls = r"(?:Malformed|refuse|own_answer)\((\d{3})|fail\(\s*[\w.]+, (\d{3})|Ending\.\w+: (\d{3})"
    statuses = {"".join(found) for found in re.findall(calls, sources)}
    assert statuses >= {"400", "408", "413", "431", "502", "503", "504"}
    told = section("When something fails")
    assert not {status for status in statuses if status not in told}
