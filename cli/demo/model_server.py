"""One version as a process: `python -m accede.cli.demo.model_server '{"scenario": …, "port": …}'`.

Speaks KServe's v1 protocol: POST /v1/models/progression:predict with {"instances": [{…}]} answers
{"predictions": [{"score": 0.31}]}; GET /v1/models/progression says whether it is ready.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable

import msgspec

from ...errors import AccedeError
from ..processes import die_with_parent
from .http_server import Reply, Request, serve_until_stopped
from .models import CANDIDATES, STABLE, Recipe, load_data, scores, train

MODEL = "progression"
PREDICT = f"/v1/models/{MODEL}:predict"
# Sigma of the log-normal feature look-up, whose p95 is 2.3 times the median: long against the noise of a busy
# machine, or the rollout would judge that.
_SPREAD = 0.5


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the process is told: `stable` or a scenario's name, and where to listen."""

    scenario: str
    port: int


class _Call(msgspec.Struct):
    instances: list[dict[str, float | str]]


def recipe_of(scenario: str) -> Recipe:
    """The recipe of `stable` or of a scenario's candidate."""
    return STABLE if scenario == "stable" else CANDIDATES[scenario]


def _answers(recipe: Recipe) -> Callable[[Request], Reply]:
    data = load_data()
    model = train(recipe, data)
    chance = random.Random()  # noqa: S311  (look-up times and faults, nothing secret)
    decoder = msgspec.json.Decoder(_Call)
    ready = Reply(msgspec.json.encode({"name": MODEL, "ready": True}))

    def answer(request: Request) -> Reply:
        if request.method == "GET":
            return ready if request.path == f"/v1/models/{MODEL}" else Reply(b"{}", 404)
        if request.path != PREDICT:
            return Reply(b'{"error": "no such model"}', 404)
        wait = chance.lognormvariate(0.0, _SPREAD) * recipe.lookup
        if chance.random() < recipe.errors:
            return Reply(b'{"error": "feature store unavailable"}', 500, after=wait)
        try:
            call = decoder.decode(request.body)
            rows = [[float(row[name]) for name in data.names] for row in call.instances]
        except (msgspec.DecodeError, KeyError, ValueError):
            return Reply(b'{"error": "instances must be rows of the diabetes data set"}', 400)
        predictions = [{"score": round(float(score), 6)} for score in scores(recipe, model, rows)]
        return Reply(msgspec.json.encode({"predictions": predictions}), after=wait)

    return answer


def main() -> None:
    """Train, listen, say `ready`, serve until SIGTERM."""
    die_with_parent()
    configuration = msgspec.json.decode(sys.argv[1], type=Configuration)
    try:
        answer = _answers(recipe_of(configuration.scenario))
        asyncio.run(serve_until_stopped(answer, configuration.port, "ready"))
    except AccedeError as problem:
        raise SystemExit(f"accede demo: {problem}") from None
    except OSError as problem:
        raise SystemExit(f"accede demo: port {configuration.port}: {problem.strerror}") from None


if __name__ == "__main__":
    main()
