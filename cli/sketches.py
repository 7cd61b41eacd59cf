"""The texts that `init` writes: what is the same for all protocols once, what differs in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..policies.protocols import PROTOCOLS

_NUMBER: Final = """\
  type: number                 # number or label
  # range: [0, 1]              # of a score: values beyond count as the limit
  # selected: ">= 0.5"         # what the gate selection_rate counts
  agree_within: 0.05           # two versions agree when their predictions differ by no more
"""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a file of one protocol says. `call`: what is analysed; `match`: whose requests, `NAME` filled in;
    `path`: a comment or a key of prediction; `feature`: the path of a slice; `named`: how versions are named.
    """

    call: str
    match: str
    path: str
    feature: str
    named: str = "names of your own; quote what looks like a number"
    versions: tuple[str, str] = ("v1", "v2")
    prediction: str = _NUMBER
    deadline: str = "5s"


SKETCHES: Final[dict[str, Sketch]] = {
    "tensorflow-serving": Sketch(
        call="POST /v1/models/NAME:predict, :classify or :regress",
        match="{path: /v1/models/NAME}",
        path="# path: predictions[*].score   # without it every element of predictions, outputs or results",
        feature="instances[*].sex",
        named="TensorFlow Serving's own version numbers: the router writes them into the URL",
        versions=("1", "2"),
    ),
    "kserve-v1": Sketch(
        call="POST /v1/models/NAME:predict",
        match="{path: /v1/models/NAME}",
        path="# path: predictions[*].score   # without it every element of predictions",
        feature="instances[*].sex",
    ),
    "open-inference": Sketch(
        call="POST /v2/models/NAME/infer, /generate or /generate_stream",
        match="{path: /v2/models/NAME}",
        path="# path: outputs.score[*]   # tensor by name; without it every instance of the first one",
        feature="sex",
        named="a number is written into the URL (Triton); other names are yours (one server each)",
    ),
    "mlflow": Sketch(
        call="POST /invocations",
        match="{path: /invocations}",
        path="# path: predictions[*].score   # without it every element of predictions",
        feature="sex",
    ),
    "torchserve": Sketch(
        call="POST /predictions/NAME",
        match="{path: /predictions/NAME}",
        path='path: "$"                    # $: the whole answer; or score, [0], result.score',
        feature="sex",
        named="TorchServe's own, such as 1.0: the router writes them into the URL",
        versions=("1.0", "2.0"),
    ),
    "bentoml": Sketch(
        call="POST /NAME, a method of the service",
        match="{path: /NAME}",
        path="# path: score                  # without it all of the answer, or each element of a list",
        feature="customer.sex",
    ),
    "sagemaker": Sketch(
        call="POST /invocations",
        match="{path: /invocations}",
        path='path: "[*][0]"               # CSV: the first column; JSON: predictions[*].score',
        feature="[*][1]",
    ),
    "openai": Sketch(
        call="POST /v1/chat/completions, /v1/completions or /v1/embeddings",
        match="{path: /v1}",
        path="# path: choices[0].message.content   # without it the first choice's text, or the embedding",
        feature="user",
        named="names of your own; `model: NAME` beside url goes into the model field of its requests",
        prediction="  type: text                   # text, label or vector (embeddings)\n",
        deadline="120s",
    ),
    "json": Sketch(
        call="every POST",
        match="{path: /NAME}",
        path="path: score                  # where the answer has it: result.score, scores[*]",
        feature="customer.sex",
    ),
}

_SERVICE: Final = """\
# {name}: {call}.
# Every key: `accede schema service`, or docs/policies.md. Check with `accede validate`.
format: accede/v1
kind: ModelService
name: {name}
match: {match}
protocol: {protocol}
# Versions: {named}.
versions:
{versions}stable: "{stable}"
policy: {name}-policy.yaml
unit: request                  # or {{header: x-user-id}}: a user stays with one version
# What does a request change? none: copies may go to the candidate. writes: nothing is copied or repeated,
# and the policy has to begin with a canary step.
side_effects: none
prediction:
  {path}
{prediction}# slices:                      # groups that must not fare worse
#   sex: {{path: "{feature}", values: [female, male]}}
limits: {{deadline: {deadline}}}
"""

_POLICY: Final = """\
# How a candidate of {name} is rolled out. Every key and metric: docs/policies.md.
format: accede/v1
kind: RolloutPolicy
name: {name}-rollout
baseline: {{requests: 1000, for: 10m}}   # stable alone first
max_duration: 7d
steps:                                 # `for` and `requests` are minima, `deadline` a maximum
  - {{shadow: 100%, until: gates, for: 15m, deadline: 24h}}
  - {{canary: 5%, for: 10m, requests: 500}}
  - {{canary: 25%, for: 10m, requests: 500}}
  - {{canary: 50%, until: gates, for: 30m, deadline: 48h}}
gates:                                 # what must be shown, and how much worse is still fine
  - {{metric: errors, max_increase: 0.5pp, max_ratio: 1.5}}
  - {{metric: latency.p95, max_ratio: 1.2, in: canary}}
{gates}breaker: {{errors: 20%, over: 10s, min_requests: 20}}
on_fail: rollback                      # or pause
on_inconclusive: pause                 # at a deadline without proof: pause or rollback, never promote
on_error: {{action: rollback, after: 15m}}
"""

_MISSING: Final = "  - {metric: prediction.missing, max_increase: 0.5pp}\n"
_SCORED: Final = """\
  - {metric: prediction.mean, max_shift: 0.1sd}
  - {metric: prediction.agreement, min: 95%, in: shadow}
"""


def service_text(protocol: str, name: str, urls: Sequence[str]) -> str:
    """The service file. `urls`: of the stable version and of the candidate, as many as are known."""
    sketch, spoken = SKETCHES[protocol], PROTOCOLS[protocol]
    stable, candidate = sketch.versions
    first = urls[0] if urls else f"http://127.0.0.1:{spoken.port}"
    if len(urls) > 1:
        second = urls[1]
    elif spoken.addresses(candidate):  # one server holds both
        second = first
    else:
        second = f"http://127.0.0.1:{spoken.port + 1}"
    lines = ""
    for version, url in ((stable, first), (candidate, second)):
        quoted = url.replace("\\", "\\\\").replace('"', '\\"')
        lines += f'  "{version}": {{url: "{quoted}"}}\n'
    return _SERVICE.format(
        name=name,
        call=sketch.call.replace("NAME", name),
        match=sketch.match.replace("NAME", name),
        protocol=protocol,
        named=sketch.named,
        versions=lines,
        stable=stable,
        path=sketch.path,
        prediction=sketch.prediction,
        feature=sketch.feature,
        deadline=sketch.deadline,
    )


def policy_text(protocol: str, name: str) -> str:
    """The policy file that goes with it."""
    scored = SKETCHES[protocol].prediction == _NUMBER
    return _POLICY.format(name=name, gates=(_SCORED if scored else "") + _MISSING)
