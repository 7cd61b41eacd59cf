"""Keys and values of the language whose effect this version does not have.

They are known, so they are refused with "not supported yet" at their place, never ignored and never
called unknown. A key leaves this table when its effect arrives.
"""

from __future__ import annotations

from typing import Final

from .policy import RolloutPolicy
from .quantities import Value
from .service import ErrorRule, Limits, ModelService

# model -> key -> what to do meanwhile
LATER_KEYS: Final[dict[type[Value], dict[str, str]]] = {
    ModelService: {
        "candidate": "remove the key and run `accede start SERVICE --candidate VERSION`",
        "contract": "remove the key, or write contract: {mode: none}",
    },
    Limits: {"per_key_rps": "remove the key and limit requests in front of the proxy"},
    ErrorRule: {"body": "remove the key, or write body: null"},
    RolloutPolicy: {
        "windows": "remove the key, and pause and resume by hand",
        "bake": "remove the key",
        "hooks": "remove the key",
        "override": "remove the key",
    },
}

# model -> key -> values of the language that this version refuses
LATER_VALUES: Final[dict[type[Value], dict[str, tuple[str, ...]]]] = {}

# The one spelling of a later key that says "nothing", and so may stand.
HARMLESS: Final[dict[type[Value], dict[str, object]]] = {
    ModelService: {"contract": {"mode": "none"}},
    ErrorRule: {"body": None},
}

# Keys that may be written with nothing behind them.
NULLABLE: Final[dict[type[Value], frozenset[str]]] = {
    ModelService: frozenset({"policy"}),
    ErrorRule: frozenset({"body"}),
    RolloutPolicy: frozenset({"breaker"}),
}
