"""A model server whose behaviour a test scripts: `python model_server.py '{"port": 8001, "errors": 0.05}'`.

KServe's v1 protocol. A row {"x": 0.4, "group": "a"} has the score x, changed as configured. Every key of
`Behaviour` can be given at the start and changed while it runs: PUT /behaviour with the keys to change.
"""

from __future__ import annotations

import asyncio
import random
import sys

import msgspec

from accede.cli.demo.http_server import Reply, Request, serve_until_stopped
from accede.cli.processes import die_with_parent


class Behaviour(msgspec.Struct, frozen=True):
    """`delay`: median seconds of an answer, log-normal with sigma `spread`; long against the noise of a busy
    machine, or a rollout would judge that. `errors`: share of HTTP 500.

    `shift`: added to every score, `group_shift` to those of group b. `field`: the name of the score in
    the answer (another name: an extractor never matches). `hang`: never answer. `drop`: close instead.
    `upside_down`: share of answers with one minus each score, which scores of the middle do not show.
    """

    delay: float = 0.04
    spread: float = 0.5
    errors: float = 0.0
    shift: float = 0.0
    group_shift: float = 0.0
    upside_down: float = 0.0
    field: str = "score"
    hang: bool = False
    drop: bool = False


class Model:
    """Answers by the behaviour of the moment, and counts what it was asked."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._chance = random.Random()
        self._asked = 0
        self._shadowed = 0

    def answer(self, request: Request) -> Reply:
        if request.path == "/behaviour" and request.method == "PUT":
            changes = msgspec.json.decode(request.body)
            self._behaviour = msgspec.convert(msgspec.to_builtins(self._behaviour) | changes, Behaviour)
            return Reply(b"{}")
        if request.path == "/counts":
            return Reply(msgspec.json.encode({"asked": self._asked, "shadowed": self._shadowed}))
        if request.method == "GET":
            return Reply(b'{"name": "model", "ready": true}')
        return self._predict(request)

    def _predict(self, request: Request) -> Reply:
        behaviour = self._behaviour
        self._asked += 1
        self._shadowed += "x-accede-shadow" in request.headers
        if behaviour.drop:
            return Reply(b"", drop=True)
        after = (
            3600.0 if behaviour.hang else self._chance.lognormvariate(0.0, behaviour.spread) * behaviour.delay
        )
        if self._chance.random() < behaviour.errors:
            return Reply(b'{"error": "scripted"}', 500, after=after)
        rows = msgspec.json.decode(request.body)["instances"]
        turned = self._chance.random() < behaviour.upside_down
        scores = [1.0 - self._score(row) if turned else self._score(row) for row in rows]
        predictions = [{behaviour.field: score} for score in scores]
        return Reply(msgspec.json.encode({"predictions": predictions}), after=after)

    def _score(self, row: dict[str, float | str]) -> float:
        shift = self._behaviour.shift + (self._behaviour.group_shift if row["group"] == "b" else 0.0)
        return min(1.0, max(0.0, float(row["x"]) + shift))


def main() -> None:
    die_with_parent()
    given = msgspec.json.decode(sys.argv[1])
    port = given.pop("port")
    model = Model(msgspec.convert(given, Behaviour))
    asyncio.run(serve_until_stopped(model.answer, port, "ready"))


if __name__ == "__main__":
    main()
