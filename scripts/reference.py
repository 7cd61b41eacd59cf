"""The generated parts of docs/: keys of files, metrics, what comes later, operations of the API, flags.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. Without arguments the parts are written
anew; with `--check` nothing is written, and exit code 1 says that a page is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, get_args

import typer.core
import typer.main
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from accede.cli.main import app
from accede.controller.api.messages import OPERATIONS
from accede.policies import quantities
from accede.policies.later import LATER_KEYS, LATER_VALUES
from accede.policies.metrics import METRICS, Metric
from accede.policies.policy import RolloutPolicy
from accede.policies.quantities import Clock, Value
from accede.policies.reading import keys_of
from accede.policies.schema import Schema, policy_schema, service_schema
from accede.policies.service import NAME_PATTERN, ModelService, Unit

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ("docs/policies.md", "docs/operating.md", "docs/command.md", "docs/statistics.md")
PART: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_PATTERNS: Final = {
    quantities.DURATION_PATTERN: "duration",
    quantities.FRACTION_PATTERN: "share",
    quantities.SIZE_PATTERN: "size",
    quantities.MARGIN_PATTERN: "margin",
    quantities.STATUS_PATTERN: "status",
    quantities.COMPARISON_PATTERN: "comparison",
    NAME_PATTERN: "name",
}
_WORDS: Final = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}
_BOUNDS: Final = (
    (Gt, "gt", "more than"),
    (Ge, "ge", "at least"),
    (Lt, "lt", "less than"),
    (Le, "le", "at most"),
)
_LEVEL: Final = 0.05
_SECONDS: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_BYTES: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# --- keys of files


def models_of(annotation: object) -> Iterator[tuple[str, type[Value]]]:
    """The models that a key holds, each with what stands before its keys: `.`, `.NAME.` or `[].`."""
    if isinstance(annotation, type) and issubclass(annotation, Value):
        yield ".", annotation
        return
    origin = getattr(annotation, "__origin__", None)
    between = {dict: ".NAME.", tuple: "[]."}.get(origin, ".") if origin is not None else "."
    for part in get_args(annotation):
        for _, model in models_of(part):
            yield between, model


def sections(model: type[Value], where: str = "") -> Iterator[tuple[str, type[Value]]]:
    """(key path, model) of a kind of file and of everything below it, in the order of the file."""
    yield where, model
    for key, name in keys_of(model).items():
        if key not in LATER_KEYS.get(model, {}):
            for between, below in models_of(model.model_fields[name].annotation):
                yield from sections(below, f"{where}{key}{between}")


def keys(kind: type[Value], schema: Schema) -> str:
    """One table per mapping of a kind of file. A mapping that stands in two places is shown once."""
    found: dict[type[Value], list[str]] = {}
    for where, model in sections(kind):
        found.setdefault(model, []).append(where)
    parts: list[str] = []
    for model, places in found.items():
        shape = schema if model is kind else schema["$defs"][model.__name__]
        later = LATER_KEYS.get(model, {})
        required = shape.get("required", [])
        rows = [
            (
                f"`{key}`",
                "metric" if key == "metric" else _type(shape["properties"][key], model.model_fields[name]),
                default_of(model.model_fields[name], shape["properties"][key], required=key in required),
                model.model_fields[name].description or "",
            )
            for key, name in keys_of(model).items()
            if key not in later
        ]
        title = ", ".join(f"`{place.rstrip('.')}`" for place in places if place)
        parts.append(
            (f"### {title}\n\n" if title else "") + table(("key", "type", "default", "meaning"), rows)
        )
    return "\n".join(parts)


def type_of(shape: Schema) -> str:
    """What may be written for a key, in the words of the section on quantities."""
    if "enum" in shape:
        return " or ".join(f"`{word}`" for word in shape["enum"])
    if "const" in shape:
        return f"`{shape['const']}`"
    if "$ref" in shape:
        return "mapping"
    if "anyOf" in shape:
        kinds = [type_of(part) for part in shape["anyOf"] if part != {"type": "null"}]
        return "margin" if "margin" in kinds else " or ".join(dict.fromkeys(kinds))
    if "prefixItems" in shape:
        return f"list of {len(shape['prefixItems'])} numbers"
    if shape.get("type") == "array":
        return f"list: {type_of(shape['items'])}"
    if isinstance(shape.get("additionalProperties"), dict):
        return f"mapping: NAME to {type_of(shape['additionalProperties'])}"
    return _PATTERNS.get(shape.get("pattern", ""), _WORDS.get(shape.get("type", ""), "?"))


def _type(shape: Schema, field: FieldInfo) -> str:
    """The type with its bounds: `share, more than 0%`."""
    kind = type_of(shape)
    metadata = list(field.metadata)
    for part in get_args(field.annotation):
        for inner in getattr(part, "__metadata__", ()):
            metadata += inner.metadata if isinstance(inner, FieldInfo) else []
    return kind + "".join(
        f", {words} {getattr(bound, name) * 100:g}%"
        if kind == "share"
        else f", {words} {getattr(bound, name):g}"
        for bound in metadata
        for bounds, name, words in _BOUNDS
        if isinstance(bound, bounds)
    )


def default_of(field: FieldInfo, shape: Schema, *, required: bool) -> str:
    """The default as it would be written."""
    if required or field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, Unit):
        return "`request`"
    if isinstance(value, Clock):
        return f"`{{action: {value.action}, after: {written(value.after, 'duration')}}}`"
    if isinstance(value, Value):
        return "see below"
    return f"`{written(value, type_of(shape))}`"


def written(value: Any, kind: str) -> str:
    """A stored value in the form of a file: 600.0 of a duration is 10m."""
    if kind == "duration":
        return _in_units(value, _SECONDS)
    if kind == "size":
        return _in_units(value, _BYTES)
    if kind == "share":
        return quantities.percent(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(f'{low}-{high}' for low, high in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_units(value: float, units: tuple[tuple[int, str], ...]) -> str:
    return next(
        (f"{value / size:g}{name}" for size, name in units if value >= size and not value % size),
        f"{value:g}",
    )


# --- metrics, and what comes later


def metrics() -> str:
    """Every metric that can be used, with what the files are checked against."""
    rows = [
        (
            f"`{metric.name}`",
            metric.meaning,
            metric.unit,
            metric.worse,
            ", ".join(_margin(metric, index) for index in range(len(metric.margins))),
            ", ".join(f"`{key}: {value:g}`" if isinstance(value, float) else f"`{key}: {value}`"
                      for key, value in metric.default) or "none",
            ", ".join(metric.places),
            "yes" if metric.sliced else "no",
        )
        for metric in METRICS
    ]  # fmt: skip
    head = (
        "metric",
        "what is compared",
        "unit",
        "harm",
        "margins, for example",
        "default",
        "decided in",
        "`by`",
    )
    return table(head, rows)


def _margin(metric: Metric, index: int) -> str:
    allowed = metric.margins[index]
    units = " or ".join("a plain number" if unit == "plain" else unit for unit in allowed.units)
    return f"`{allowed}`" + (f" ({units})" if len(allowed.units) > 1 else "")


def later() -> str:
    """Keys and values that are known and refused."""
    rows = [
        (*_place(model, key), "", instead)
        for model, found in LATER_KEYS.items()
        for key, instead in found.items()
    ]
    rows += [
        (*_place(model, key), ", ".join(f"`{value}`" for value in values), "use another value")
        for model, found in LATER_VALUES.items()
        for key, values in found.items()
    ]
    return table(("file", "key", "values", "meanwhile"), rows)


def _place(model: type[Value], key: str) -> tuple[str, str]:
    """Which kind of file a key is in, and its path there."""
    for kind, file in ((ModelService, "service"), (RolloutPolicy, "policy")):
        for where, found in sections(kind):
            if found is model:
                return file, f"`{where}{key}`"
    raise LookupError(model.__name__)


# --- the API and the command


def operations() -> str:
    """Every operation of the API."""
    rows = [
        (
            f"`{one.method} {one.path}`",
            one.summary,
            one.role or "",
            ", ".join(f"`{name}`" for name, _ in one.query) or "",
            ", ".join(f"`{name}`" for name in one.body.model_fields) if one.body is not None else "",
        )
        for one in OPERATIONS
    ]
    rows.append(("`GET /openapi.json`", "This list as OpenAPI 3.1", "", "", ""))
    return table(("operation", "what", "role", "query", "body"), rows)


def commands() -> dict[str, typer.core.TyperCommand]:
    """Verb -> command."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return {name: one for name, one in group.commands.items() if isinstance(one, typer.core.TyperCommand)}


def verbs() -> str:
    """Every verb with its arguments and flags."""
    rows: list[tuple[str, ...]] = []
    for name, command in commands().items():
        arguments = [
            one.metavar or (one.name or "").upper()
            for one in command.params
            if isinstance(one, typer.core.TyperArgument)
        ]
        flags = [f"`{one.opts[0]}`" for one in options(command)]
        rows.append((f"`{' '.join((name, *arguments))}`", command.help or "", " ".join(flags)))
    return table(("verb", "what", "flags"), rows)


def flags() -> str:
    """Every flag, with the verbs where it means this where it does not mean so everywhere."""
    found: dict[tuple[str, ...], list[str]] = {}
    names: dict[str, set[tuple[str, ...]]] = {}
    for verb, command in commands().items():
        for one in options(command):
            spelled = ", ".join(
                f"`{name}`" for name in sorted((*one.opts, *one.secondary_opts), key=len, reverse=True)
            )
            environment = f"`{one.envvar}`" if isinstance(one.envvar, str) else ""
            row = (spelled, environment, _flag_default(one), one.help or "")
            found.setdefault(row, []).append(verb)
            names.setdefault(spelled, set()).add(row)
    rows = [
        (
            spelled,
            environment,
            default,
            meaning + (f" ({', '.join(where)})" if len(names[spelled]) > 1 else ""),
        )
        for (spelled, environment, default, meaning), where in sorted(found.items())
    ]
    return table(("flag", "environment", "default", "meaning"), rows)


def options(command: typer.core.TyperCommand) -> list[typer.core.TyperOption]:
    """The flags of a verb, without --help."""
    return [one for one in command.params if isinstance(one, typer.core.TyperOption) and one.name != "help"]


def _flag_default(option: typer.core.TyperOption) -> str:
    value: Any = option.default
    if option.required:
        return "required"
    if value is None or value == "" or value is False:
        return ""
    return (
        f"`{value.value if isinstance(value, Enum) else f'{value:g}' if isinstance(value, float) else value}`"
    )


def measured() -> str:
    """Per method the worst false alarms at 5% and the delay, out of the stored report of the benchmark."""
    report = json.loads((ROOT / "docs" / "benchmarks" / "statistics.json").read_bytes())
    rates = [rate for rate in report["rates"] if rate["kind"] == "ours" and rate["level"] == _LEVEL]
    waits = [wait for wait in report["delays"] if wait["kind"] == "ours"]
    rows: list[tuple[str, ...]] = []
    for method in dict.fromkeys(one["method"] for one in (*rates, *waits)):
        worst: list[str] = []
        for side in ("harm", "safe"):
            here = [rate for rate in rates if rate["method"] == method and rate["side"] == side]
            most = max(here, key=lambda rate: rate["hits"] / rate["runs"], default=None)
            worst.append("–" if most is None else f"{most['hits'] / most['runs']:.2%} ({most['scene']})")
        delay = "; ".join(
            f"{wait['median'] / wait['fixed']:.2f} ({wait['setting']})" if wait["median"] is not None
            else f"more than half not found ({wait['setting']})"
            for wait in waits
            if wait["method"] == method
        )  # fmt: skip
        rows.append((method, *worst, delay or "–"))
    runs = min(rate["runs"] for rate in report["rates"])
    return table(("method", f"harm, worst of {runs} runs each", "safe, worst", "delay / fixed sample"), rows)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "service": lambda: keys(ModelService, service_schema()),
    "policy": lambda: keys(RolloutPolicy, policy_schema()),
    "metrics": metrics,
    "later": later,
    "operations": operations,
    "verbs": verbs,
    "flags": flags,
    "measured": measured,
}


def regenerated(text: str) -> str:
    """A page with its generated parts as they should be. Raises KeyError for an unknown part."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def main() -> int:
    """Write the pages, or with --check say which are out of date."""
    check, stale = "--check" in sys.argv[1:], False
    for name in PAGES:
        page = ROOT / name
        before = page.read_text(encoding="utf-8")
        after = regenerated(before)
        if before != after:
            stale = True
            print(f"{name}: {'out of date; run scripts/docs' if check else 'written'}")
            if not check:
                page.write_text(after, encoding="utf-8")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
