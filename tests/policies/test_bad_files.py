# ruff: noqa: E501  (one case per line, so that the tables read as tables)
"""Every wrong file is told where, which key, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accede.errors import FileError, Problem
from accede.policies.load import parse_policy, parse_service

SERVICE = """\
format: accede/v1
kind: ModelService
name: fraud
match: {path: /v1/models/fraud}
protocol: kserve-v1
versions:
  "42": {url: "http://tf-a:8501"}
  "43": {url: "http://tf-b:8501"}
stable: "42"
"""

POLICY = """\
format: accede/v1
kind: RolloutPolicy
name: guarded
steps:
  - {shadow: 100%, for: 10m}
  - {canary: 5%, for: 10m}
  - {canary: 50%, for: 10m}
gates:
  - {metric: errors}
  - {metric: latency.p99}
"""


def problems_of(parse: Callable[..., object], text: str) -> tuple[Problem, ...]:
    with pytest.raises(FileError) as raised:
        parse(text, file="f.yaml")
    return raised.value.problems


def only(parse: Callable[..., object], text: str) -> str:
    found = problems_of(parse, text)
    assert len(found) == 1, [str(problem) for problem in found]
    return str(found[0])


# What replaces which line of SERVICE (None: is added at the end), and what the one problem says.
SERVICE_CASES = [
    ("name: fraud", "name: Fraud", "3:7: name: found 'Fraud'; allowed: 1 to 63 lower-case letters"),
    ("name: fraud", "name: 7", '3:7: name: found 7, which is not text; quote it: "7"'),
    ("name: fraud", "", "1:1: name: this key is required; add it"),
    ("name: fraud", "name:", "3:1: name: found nothing after the key; write a value or remove the key"),
    ("name: fraud", "nmae: fraud\nname: a", "3:1: nmae: unknown key; did you mean 'name'? allowed: balance, capture,"),
    ("format: accede/v1", "format: accede/v2", "1:9: format: found 'accede/v2'; did you mean 'accede/v1'?"),
    ("kind: ModelService", "kind: RolloutPolicy", "2:7: kind: found 'RolloutPolicy'; a ModelService file is needed"),
    ("kind: ModelService", "kind: Modelservice", "2:7: kind: found 'Modelservice'; did you mean 'ModelService'?"),
    ("protocol: kserve-v1", "protocol: jsn", "5:11: protocol: found 'jsn'; did you mean 'json'? allowed: tensorflow"),
    ("protocol: kserve-v1", "protocol: json\nprediction: {range: [0, 1]}", "6:13: prediction.path: this key is required with protocol json, which does not say where predictions stand; add it, such as result.score"),
    ("protocol: kserve-v1", "protocol: torchserve\nprediction: {type: label}", "prediction.path: this key is required with protocol torchserve, which does not say where predictions stand; add it, $ is the whole answer"),
    ("protocol: kserve-v1", "protocol: sagemaker\nprediction: {type: label}", "prediction.path: this key is required with protocol sagemaker, which does not say where predictions stand; add it, such as [*][0] for CSV"),
    ("protocol: kserve-v1", "protocol: tensorflow-serving\nprediction: {path: score}", "6:20: prediction.path: found 'score'; an answer of tensorflow-serving has its predictions below predictions or outputs or results; without the key"),
    ("protocol: kserve-v1", 'protocol: open-inference\nprediction: {path: "predictions[*]"}', "prediction.path: found 'predictions[*]'; an answer of open-inference has its predictions below outputs or text_output"),
    ("protocol: kserve-v1", "protocol: openai\nprediction: {type: number}", "6:20: prediction.type: found 'number'; with protocol openai allowed: label, text, vector"),
    ("protocol: kserve-v1", "protocol: openai\nprediction: {path: 'choices[0].text'}", "prediction.type: found 'number'; with protocol openai allowed: label, text, vector"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "http://tf-a:8501"}', "8:9: versions.43: has the address of version '42', and a request of kserve-v1 would not tell them apart; give each an address of its own"),
    ("match: {path: /v1/models/fraud}", "match: {}", "4:8: match: matches nothing; give path, host or both"),
    (
        "match: {path: /v1/models/fraud}",
        "match: {path: v1}",
        "4:15: match.path: found 'v1'; allowed: whole segments, beginning with /",
    ),
    ("match: {path: /v1/models/fraud}", "match: {path: /a/}", "4:15: match.path: found '/a/'"),
    ("match: {path: /v1/models/fraud}", "match: {path: /a/../b}", "4:15: match.path: found '/a/../b'"),
    ("match: {path: /v1/models/fraud}", "match: {host: 'a:80'}", "4:15: match.host: found 'a:80'; allowed: a host"),
    ("match: {path: /v1/models/fraud}", "match: /a", "4:8: match: found '/a'; allowed: a mapping"),
    ('  "43": {url: "http://tf-b:8501"}', '  43: {url: "http://b"}', '8:3: versions.43: a key must be text; quote it: write "43":'),
    (
        '  "43": {url: "http://tf-b:8501"}',
        '  "42": {url: "http://b"}',
        "8:3: versions.42: this key was already given in line 7, column 3; keep one",
    ),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {}', "8:9: versions.43: has no address; add url: http://host:port"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43":', "8:8: versions.43: found nothing; allowed: a mapping"),
    ('  "43": {url: "http://tf-b:8501"}', '  "4 3": {url: "http://b"}', '8:3: versions["4 3"]: found the version name'),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "ftp://b"}', "8:15: versions.43.url: not an http URL; allowed: http://host:port or https://host:port"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "http://b/v1"}', "versions.43.url: a path, query or fragment follows the address; write only http://b"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "http://u:secret@b"}', "versions.43.url: credentials do not belong into a URL"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "http://b:99999"}', "versions.43.url: not a URL with a valid host and port"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "tf-b:8501"}', "versions.43.url: not an http URL; allowed: http://host:port"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {urls: ["http://b", "http://b"]}', "8:29: versions.43.urls[1]: listed twice; remove one"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {urls: ["http://b", "https://b/x"]}', "8:29: versions.43.urls[1]: a path, query or fragment follows the address; write only https://b"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "http://b", tls: {ca: /x}}', "versions.43.tls: only https addresses are verified; write https://host:port, or remove it"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "https://b", tls: {ca: x.pem}}', "versions.43.tls.ca: found 'x.pem'; allowed: a whole path on the router's host, such as /etc/tls/ca.pem"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "https://b", tls: {ca: /x, verify: false}}', "versions.43.tls.ca: with verify: false nothing is compared with it"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "https://b", tls: {key: /x}}', "versions.43.tls.key: belongs to no certificate"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "https://b", tls: {server_name: "a:1"}}', "versions.43.tls.server_name: found 'a:1'; allowed: a host name without port"),
    (None, "readiness: {path: healthz}", "10:19: readiness.path: found 'healthz'; allowed: a path beginning with /"),
    (None, "readiness: {path: /healthz, probe: false}", "readiness.path: with probe: false nothing is asked"),
    (None, "readiness: {every: 0s}", "readiness.every: found '0s'"),
    (None, "balance: {eject_after: 0}", "balance.eject_after: found 0"),
    (None, "balance: {by: random}", "balance.by: found 'random'"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "http://b", urls: ["http://c"]}', "versions.43.urls: given beside url; keep one of both"),
    ('  "43": {url: "http://tf-b:8501"}', '  "43": {url: "http://b", card: {rows: 7}}', '8:40: versions.43.card.rows: found 7, which is not text; quote it: "7"'),
    ('stable: "42"', 'stable: "44"', "9:9: stable: found '44'; allowed: a key of versions: 42, 43"),
    ('stable: "42"', "stable: 42", '9:9: stable: found 42, which is not text; quote it: "42"'),
    (None, 'candidate: "43"', "10:1: candidate: not supported yet; remove the key and run `accede start"),
    (None, "unit: session", "10:7: unit: found 'session'; allowed: request, {header: x-user-id}, {cookie: session} or {path: user.id}"),
    (None, "unit: {header: a, cookie: b}", "unit.cookie: given beside header; keep one of them"),
    (None, "unit: {cookie: 'a b'}", "unit.cookie: found 'a b'; allowed: the name of a cookie"),
    (None, "unit: {path: 'users[*].id'}", "unit.path: found 'users[*].id'; allowed: keys joined by '.', with [0] for lists but no [*]"),
    (None, "unit: {header: Connection}", "unit.header: found 'Connection', which never reaches the assignment"),
    (None, "unit: {header: X-Accede-Arm}", "unit.header: found 'X-Accede-Arm', which never reaches the assignment"),
    (None, "unit: {header: host}", "unit.header: found 'host', which names no user: it is the service's"),
    (None, "unit: {header: content-length}", "unit.header: found 'content-length', which names no user"),
    (None, "unit: {header: x-request-id}", "another one for every request; write unit: request"),
    (None, "unit: {header: cookie}", "write {cookie: NAME} for one of them"),
    (None, "mirror: {strip: ['a b']}", "mirror.strip[0]: found 'a b'; allowed: the name of a header"),
    (None, "mirror: {strip: [Host]}", "mirror.strip[0]: a copy without host is no request; remove it"),
    (None, "override: {token: hunter2hunter2hunter2}", "override.token: a token does not belong into a file; write where the controller finds it, such as env:ACCEDE"),
    (None, "unit: {missing: stable}", "10:7: unit: has no header; write {header: x-user-id}, or unit: request"),
    (None, "unit: {header: 'x user'}", "10:16: unit.header: found 'x user'; allowed: the name of a header"),
    (None, "unit: {header: x-u, missing: drop}", "10:30: unit.missing: found 'drop'; allowed: stable, random"),
    (None, "side_effects: write", "10:15: side_effects: found 'write'; did you mean 'writes'? allowed: none, shadow"),
    (None, "errors: {connect: yes}", "10:19: errors.connect: found 'yes'; allowed: true or false; write true"),
    (None, "errors: {connect: 1}", "10:19: errors.connect: found 1; allowed: true or false"),
    (None, "errors: {status: [599-500]}", "10:19: errors.status[0]: found '599-500'; allowed: a status such as 503"),
    (None, "errors: {status: [true]}", "10:19: errors.status[0]: found true; allowed: a status such as 503"),
    (None, "errors: {status: 500-599}", "10:18: errors.status: found '500-599'; allowed: a list, such as [a, b]"),
    (None, "errors: {body: error}", "10:10: errors.body: not supported yet; remove the key, or write body: null"),
    (None, "prediction: {path: 'a b'}", "10:20: prediction.path: found 'a b'; allowed: keys joined by '.'"),
    (None, "prediction: {path: 'a[-1]'}", "10:20: prediction.path: found 'a[-1]'"),
    (None, 'prediction: {type: vector, selected: ">= 1"}', "10:38: prediction.selected: found '>= 1.0'; vectors are not selected: remove it, or write type: number or type: label"),
    (None, "prediction: {range: [1, 0]}", "10:21: prediction.range: found 1 and 0; the first must be less"),
    (None, "prediction: {range: [0]}", "10:21: prediction.range[1]: this key is required"),
    (None, "prediction: {range: [0, 1, 2]}", "10:21: prediction.range: found more entries than the 2"),
    (None, "prediction: {range: [0, true]}", "10:25: prediction.range[1]: found true; allowed: a number"),
    (None, "prediction: {type: label, range: [0, 1]}", "10:34: prediction.range: only numbers have a range"),
    (None, "prediction: {selected: 0.5}", "10:24: prediction.selected: found 0.5; allowed: a comparison in quotes"),
    (None, 'prediction: {selected: "== approve"}', "10:24: prediction.selected: found '== approve'; a number is compared"),
    (None, 'prediction: {type: label, selected: ">= a"}', "prediction.selected: found '>= a'; labels are compared with =="),
    (None, "prediction: {agree_within: -1}", "10:28: prediction.agree_within: found -1; allowed: at least 0"),
    (None, 'prediction: {agree_within: "1"}', "prediction.agree_within: found '1'; allowed: a number, without quotes"),
    (None, "prediction: {type: label, agree_within: 1}", "prediction.agree_within: labels agree when they are equal"),
    (None, 'uncertainty: {path: "a b"}', "10:21: uncertainty.path: found 'a b'; allowed: keys joined by '.'"),
    (None, "uncertainty: {path: a}\nprediction: {type: label}", "10:14: uncertainty: found predictions of type label; only"),
    (None, "uncertainty: {}", "uncertainty.path: this key is required; add it"),
    (None, 'explanation: {path: "[1"}', "10:21: explanation.path: found '[1'; allowed: keys joined by '.'"),
    (None, "metrics: {A: {path: a, type: share}}", "10:11: metrics.A: found the metric name 'A'; allowed: 1 to 63"),
    (None, "metrics: {a: {path: a}}", "metrics.a.type: this key is required; add it"),
    (None, "metrics: {a: {path: a, type: share, range: [0, 1]}}", "metrics.a.range: a share is 0 to 1; remove it"),
    (None, "metrics: {a: {path: a, type: number}}", "metrics.a: a number needs its limits; add range: [0, 100]"),
    (None, "metrics: {a: {path: a, type: number, range: [2, 1]}}", "metrics.a.range: found 2 and 1; the first must be less"),
    (None, "metrics: {" + ", ".join(f"m{k}: {{path: a, type: share}}" for k in range(17)) + "}", "metrics: found 17 metrics; allowed: at most 16"),
    (None, "contract: {mode: enforce}", "10:1: contract: not supported yet; remove the key, or write contract: {mode"),
    (None, "slices: {sex: {path: a, values: [f]}}", "10:33: slices.sex.values: found 1 groups; allowed: 2 to 64"),
    (None, "slices: {sex: {path: a, values: [f, f]}}", "10:37: slices.sex.values[1]: 'f' is listed twice"),
    (None, "slices: {sex: {path: a, values: [f, 1]}}", '10:37: slices.sex.values[1]: found 1, which is not text; quote it: "1"'),
    (None, "slices: {sex: {path: a, values: [f, other]}}", "slices.sex.values[1]: 'other' is the group of all values"),
    (None, "slices: {sex: {path: a, values: [f, m], reference: male}}", "slices.sex.reference: found 'male'; allowed: one of f, m"),
    (None, "slices: {sex: {values: [f, m]}}", "10:15: slices.sex.path: this key is required; add it"),
    (None, "slices: {age: {path: a, bins: [0, 25, 25]}}", "10:39: slices.age.bins[2]: found 25 after 25; edges must grow"),
    (None, "slices: {age: {path: a, bins: [0]}}", "10:31: slices.age.bins: found 1 edges; allowed: 2 to 64"),
    (None, "slices: {age: {path: a}}", "10:15: slices.age: give either values (of text) or bins"),
    (None, "slices: {x: {cross: [a, b]}}", "10:22: slices.x.cross[0]: 'a' is no slice; the service has no other slices"),
    (None, "slices: {a: {path: a, values: [f, m]}, x: {cross: [a]}}", "slices.x.cross: found 1 slices; allowed: 2 to 4"),
    (None, "slices: {a: {path: a, values: [f, m]}, x: {cross: [a, a]}}", "slices.x.cross[1]: 'a' is listed twice"),
    (None, "slices: {a: {path: a, values: [f, m]}, x: {cross: [a, aa]}}", "slices.x.cross[1]: 'aa' is no slice; did you mean 'a'? allowed: a"),
    (None, "slices: {a: {path: a, values: [f, m]}, b: {path: b, bins: [0, 1]}, x: {cross: [a, b]}, y: {cross: [a, x]}}", "slices.y.cross[1]: 'x' is crossed itself; allowed: a, b"),
    (None, "slices: {a: {path: a, values: [f, m]}, b: {path: b, bins: [0, 1]}, x: {cross: [a, b], path: c}}", "slices.x.path: a crossed slice has the groups of its parts; remove the key"),
    (None, "slices: {a: {path: a, values: [f, m]}, b: {path: b, bins: [0, 1]}, x: {cross: [a, b], reference: f}}", "slices.x.reference: found 'f'; allowed: one of f/[0,1), f/[1,inf), m/[0,1), m/[1,inf)"),
    (None, "slices: {a: {path: a, values: [f, f/g]}, b: {path: b, values: [g/h, h]}, x: {cross: [a, b]}}", "slices.x.cross: two combinations have the same name; rename values that hold '/'"),
    (None, f"slices: {{a: {{path: a, bins: {list(range(20))}}}, b: {{path: b, bins: [0, 1, 2, 3]}}, x: {{cross: [a, b]}}}}", "slices.x.cross: found 80 combinations; allowed: at most 64"),
    (None, "slices: {sex: {path: a, values: [f, (pooled)]}}", "slices.sex.values[1]: '(pooled)' is what small groups together are called"),
    (None, "slices: {age: {path: a, bins: [0, 25], reference: '25'}}", "slices.age.reference: found '25'; allowed: one of [0,25), [25,inf)"),
    (None, "slices: {Sex: {path: a, values: [f, m]}}", "10:10: slices.Sex: found the slice name 'Sex'; allowed:"),
    (None, "limits: {deadline: 2}", "10:20: limits.deadline: found 2 without a unit; write 2s, or another"),
    (None, "limits: {deadline: 0s}", "10:20: limits.deadline: found '0s'; allowed: more than 0"),
    (None, "limits: {deadline: true}", "10:20: limits.deadline: found true; allowed: a duration such as"),
    (None, "limits: {body: 8MB}", "10:16: limits.body: found '8MB'; allowed: a size such as 512B, 64KiB"),
    (None, "limits: {body: 8}", "10:16: limits.body: found 8 without a unit; write 8B"),
    (None, "limits: {per_key_rps: 200}", "10:10: limits.per_key_rps: not supported yet"),
    (None, "capture: {sample: 1}", "10:19: capture.sample: found 1 without a unit; write 100% for this share, or 1%"),
    (None, "capture: {sample: 101%}", "10:19: capture.sample: found '101%'; allowed: 0% to 100%"),
    (None, "capture: {sample: 5pp}", "10:19: capture.sample: found '5pp'; a share is written 5%"),
    (None, "mirror: {max_in_flight: 0}", "10:25: mirror.max_in_flight: found 0; allowed: more than 0"),
    (None, "mirror: {max_in_flight: 1.5}", "10:25: mirror.max_in_flight: found 1.5; allowed: a whole number"),
    (None, "inputs: {amount: {path: 'a b'}}", "10:25: inputs.amount.path: found 'a b'; allowed: keys joined by '.'"),
    (None, "inputs: {Amount: {path: a}}", "10:10: inputs.Amount: found the input name 'Amount'; allowed: 1 to 63"),
    (None, "inputs: {amount: {}}", "10:18: inputs.amount.path: this key is required; add it"),
    (None, "inputs: {amount: {path: a, type: text}}", "inputs.amount.type: found 'text'; allowed: number, category"),
    (None, "inputs: {amount: {path: a, range: [1, 1]}}", "10:35: inputs.amount.range: found 1 and 1; the first must be less"),
    (None, "inputs: {amount: {path: a, values: [x]}}", "inputs.amount.values: only categories have values; remove it, or write type: category"),
    (None, "inputs: {kind: {path: a, type: category, range: [0, 1]}}", "inputs.kind.range: only numbers have a range"),
    (None, "inputs: {kind: {path: a, type: category, values: [x, x]}}", "inputs.kind.values[1]: 'x' is listed twice"),
    (None, f"inputs: {{kind: {{path: a, type: category, values: [{', '.join(f'v{n}' for n in range(65))}]}}}}", "inputs.kind.values: found 65 categories; allowed: at most 64"),
    (None, f"inputs: {{{', '.join(f'i{n}: {{path: a}}' for n in range(33))}}}", "10:9: inputs: found 33 inputs; allowed: at most 32"),
    (None, "recording: {sample: 1%, request: ['a b']}", "10:35: recording.request[0]: found 'a b'; allowed: keys joined by '.'"),
    (None, "recording: {sample: 1%, request: [a, a]}", "recording.request[1]: 'a' is listed twice"),
    (None, "recording: {sample: 1%, request: [amount], hashed: [amout]}", "recording.hashed[0]: found 'amout', which is not recorded; did you mean 'amount'? add it to request or response"),
    (None, "recording: {request: [amount]}", "10:12: recording: fields are named and no request is recorded; add sample: 1%"),
    (None, "recording: {sample: 1%, max_bytes: 0B}", "recording.max_bytes: found '0B'; allowed: more than 0"),
    (None, f"recording: {{sample: 1%, response: [{', '.join(f'f{n}' for n in range(65))}]}}", "recording.response: found 65 fields; allowed: at most 64"),
    (None, "mirror: [1]", "10:9: mirror: found a list; allowed: a mapping"),
]  # fmt: skip

POLICY_CASES = [
    ("  - {shadow: 100%, for: 10m}", "  - {shadow: 100%, duration: 10m}", "5:20: steps[0].duration: unknown key; allowed: approve, canary, deadline, for,"),
    ("  - {shadow: 100%, for: 10m}", "  - {shadow: 1.5, for: 10m}", "5:14: steps[0].shadow: found 1.5 without a unit; write 1.5%"),
    ("  - {shadow: 100%, for: 10m}", "  - {for: 10m}", "5:5: steps[0]: a step has one verb; write shadow: 100% or canary: 5%"),
    ("  - {shadow: 100%, for: 10m}", "  - {shadow: 5%, canary: 5%}", "5:18: steps[0].canary: a step has one verb; keep shadow or canary"),
    ("  - {shadow: 100%, for: 10m}", "  - {canary: 10%}", "6:14: steps[1].canary: found 5% after 10%; weights never go down"),
    ("  - {shadow: 100%, for: 10m}", "  - {canary: 0%}", "5:14: steps[0].canary: found '0%'; allowed: more than 0"),
    ("  - {shadow: 100%, for: 10m}", "  - {canary: 0.001%}", "5:14: steps[0].canary: found 0.001%; allowed: whole multiples of 0.01%"),
    ("  - {shadow: 100%, for: 10m}", "  - {approve: {group: a}}", "5:6: steps[0].approve: nothing is seen of the candidate before it; put it after"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {}, for: 10m}", "7:19: steps[2].for: an approve step waits for people, and traffic stays as it is; remove the key"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {}, requests: 1}", "7:19: steps[2].requests: an approve step waits for people"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {}, until: gates}", "7:19: steps[2].until: an approve step waits for people"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {}, mirror_back: 5%}", "7:19: steps[2].mirror_back: an approve step waits for people"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {}, canary: 50%}", "7:6: steps[2].approve: a step has one verb; keep canary or approve"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {count: 0}}", "7:23: steps[2].approve.count: found 0; allowed: at least 1"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {count: 21}}", "7:23: steps[2].approve.count: found 21; allowed: at most 20"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {group: Model Risk}}", "7:23: steps[2].approve.group: found 'Model Risk'; allowed: lower-case letters"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {group: [a, b]}}", "7:23: steps[2].approve.group: found a list; allowed: lower-case letters"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {not_starter: never}}", "7:29: steps[2].approve.not_starter: found 'never'; allowed: true or false"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {valid_for: 0s}}", "7:27: steps[2].approve.valid_for: found '0s'; allowed: more than 0"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {valid_for: 24}}", "7:27: steps[2].approve.valid_for: found 24 without a unit; write 24s"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: {people: [anna]}}", "7:16: steps[2].approve.people: unknown key; allowed: count, group, not_starter, valid_for"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: model-risk}", "7:15: steps[2].approve: found 'model-risk'; allowed: a mapping"),
    ("  - {canary: 50%, for: 10m}", "  - {approve: }", "7:6: steps[2].approve: found nothing after the key"),
    ("  - {shadow: 100%, for: 10m}", "  - shadow", "5:5: steps[0]: found 'shadow'; allowed: a mapping"),
    ("  - {shadow: 100%, for: 10m}", "  - {shadow: 5%, for: 1h, deadline: 10m}", "5:37: steps[0].deadline: found 600s; allowed: no less than `for`, which is 3600s"),
    ("  - {shadow: 100%, for: 10m}", "  - {shadow: 5%, until: proof}", "5:25: steps[0].until: found 'proof'; allowed: gates"),
    ("  - {canary: 5%, for: 10m}", "  - {canary: 5%, mirror_back: 0%}", "6:31: steps[1].mirror_back: found '0%'; allowed: more than 0%"),
    ("  - {canary: 5%, for: 10m}", "  - {canary: 5%, mirror_back: 0.00001%}", "steps[1].mirror_back: found 1e-05%; allowed: whole multiples of 0.0001%"),
    ("  - {canary: 5%, for: 10m}", "  - {shadow: 5%, mirror_back: 20%}", "6:18: steps[1].mirror_back: in a shadow step every answer is stable's already; remove the key"),
    ("  - {canary: 50%, for: 10m}", "  - {shadow: 50%}", "7:14: steps[2].shadow: after a canary step this takes the users away"),
    ("  - {canary: 50%, for: 10m}", "  - {canary: 100%}", "7:14: steps[2].canary: at 100% nothing of stable is left to compare with"),
    ("  - {canary: 50%, for: 10m}", "  - {canary: 50%, for: 01:30}", "7:24: steps[2].for: found '01:30'; allowed: a duration such as"),
    ("  - {canary: 50%, for: 10m}", "  - {canary: 50%, for: -1s}", "7:24: steps[2].for: found '-1s'; allowed: a duration"),
    ("  - {canary: 50%, for: 10m}", "  - {canary: 50%, requests: many}", "7:29: steps[2].requests: found 'many'; allowed: a whole number"),
    ("  - {metric: errors}", "  - {metric: error}", "9:14: gates[0].metric: found 'error'; did you mean 'errors'? supported: errors,"),
    ("  - {metric: errors}", "  - {metric: outcome.brier}", "9:5: gates[0]: outcome.brier needs a margin; add max_increase: 0.01"),
    ("  - {metric: errors}", "  - {max_increase: 1pp}", "9:5: gates[0].metric: this key is required; add it"),
    ("  - {metric: errors}", "  - {metric: errors, max_increase: 5%}", "9:36: gates[0].max_increase: found '5%'; a percent could be of two things; write 0.5pp (absolute) or max_ratio: 1.05"),
    ("  - {metric: errors}", "  - {metric: errors, max_increase: 0.01}", "9:36: gates[0].max_increase: found 0.01; errors takes max_increase in pp, such as 0.5pp"),
    ("  - {metric: errors}", "  - {metric: errors, max_increase: 0.1sd}", "9:36: gates[0].max_increase: found 0.1sd; errors takes max_increase in pp"),
    ("  - {metric: errors}", "  - {metric: errors, max_increase: true}", "9:36: gates[0].max_increase: found true; allowed: a margin with its unit"),
    ("  - {metric: errors}", "  - {metric: errors, max_increase: 0pp}", "9:36: gates[0].max_increase: found 0pp; allowed: more than 0"),
    ("  - {metric: errors}", "  - {metric: errors, max_increase: 101pp}", "gates[0].max_increase: found 101pp; allowed: more than 0 and at most 100pp"),
    ("  - {metric: errors}", "  - {metric: errors, max_shift: 1pp}", "9:22: gates[0].max_shift: errors takes no max_shift; allowed: max_increase: 0.5pp or max_ratio: 1.5"),
    ("  - {metric: errors}", "  - {metric: errors, max_ratio: 0.9}", "9:33: gates[0].max_ratio: found 0.9; allowed: more than 1"),
    ("  - {metric: errors}", "  - {metric: errors, max_ratio: 150%}", "9:33: gates[0].max_ratio: found '150%'; allowed: a number"),
    ("  - {metric: errors}", "  - {metric: errors, in: live}", "9:26: gates[0].in: found 'live'; allowed: shadow, canary"),
    ("  - {metric: errors}", "  - {metric: errors, or: not_worse}", "9:26: gates[0].or: found 'not_worse'; did you mean 'not_worse_than_stable'?"),
    ("  - {metric: errors}", "  - {metric: errors, or: not_worse_than_stable}", "9:22: gates[0].or: errors is compared with stable already; remove the key"),
    ("  - {metric: errors}", "  - {metric: selection_ratio}", "9:5: gates[0]: selection_ratio compares groups; add by: and the name of a slice"),
    ("  - {metric: errors}", "  - {metric: selection_gap, max_increase: 3pp}", "9:5: gates[0]: selection_gap compares groups; add by:"),
    ("  - {metric: errors}", "  - {metric: selection_ratio, by: sex, min: 80%}", "gates[0].min: found '80%'; allowed: a plain number, such as 0.8"),
    ("  - {metric: errors}", "  - {metric: selection_ratio, by: sex, min: 1}", "gates[0].min: found 1; allowed: more than 0 and less than 1, such as 0.8"),
    ("  - {metric: errors}", "  - {metric: prediction.agreement, min: 0.95}", "gates[0].min: found 0.95 without a unit; write 95% for this share"),
    ("  - {metric: errors}", "  - {metric: errors, labels: {}}", "gates[0].labels.mature_after: this key is required; add it"),
    ("  - {metric: errors}", "  - {metric: errors, small_slices: pol}", "9:36: gates[0].small_slices: found 'pol'; did you mean 'pool'?"),
    ("  - {metric: errors}", "  - {metric: metrics.refused, max_shift: 5pp, max_increase: 1pp}", "gates[0].max_increase: max_shift bounds both directions; keep one of the two"),
    ("  - {metric: errors}", "  - {metric: errors, max_ratio: 1.5, harm_at: 1.5}", "gates[0].harm_at: found 1.5; allowed: a factor from 1 to under max_ratio 1.5"),
    ("  - {metric: errors}", "  - {metric: errors, max_increase: 1pp, harm_at: 1pp}", "gates[0].harm_at: found 1pp; allowed: less than the margin 1pp"),
    ("  - {metric: errors}", "  - {metric: errors, max_increase: 1pp, harm_at: 0.5sd}", "gates[0].harm_at: found 0.5sd; allowed: less than the margin, in its unit (1pp)"),
    ("  - {metric: latency.p99}", "  - {metric: latency.p99, in: shadow}", "10:31: gates[1].in: latency.p99 cannot be decided in shadow; allowed: canary"),
    ("  - {metric: latency.p99}", "  - {metric: latency.p99, by: sex}", "10:31: gates[1].by: latency.p99 is not measured by slice; allowed for: errors,"),
    ("  - {metric: latency.p99}", "  - {metric: latency.p99, max_increase: 20ms}", "10:27: gates[1].max_increase: max_increase of latency.p99 is not supported yet; allowed: max_ratio: 1.2"),
    ("  - {metric: latency.p99}", "  - {metric: latency.p99, max_ratio: 1.01}", "gates[1].max_ratio: found 1.01; latencies are measured in steps of 2%: at least 1.05"),
    ("  - {metric: latency.p99}", "  - {metric: prediction.distribution}", "10:5: gates[1]: prediction.distribution needs a margin; add max_shift: 5pp"),
    ("  - {metric: latency.p99}", "  - {metric: prediction.agreement}", "10:5: gates[1]: prediction.agreement needs a margin; add min: 95%"),
    ("  - {metric: latency.p99}", "  - {metric: prediction.agreement, min: 0.95}", "gates[1].min: found 0.95 without a unit; write 95% for this share, or 0.95%"),
    ("  - {metric: latency.p99}", "  - {metric: prediction.agreement, min: 100%}", "gates[1].min: found 100%; allowed: more than 0% and less than 100%"),
    ("  - {metric: latency.p99}", "  - {metric: prediction.agreement, min: 95%, harm_at: 90%}", "gates[1].harm_at: found '90%'; a percent could be of two things"),
    ("  - {metric: latency.p99}", "  - {metric: prediction.agreement, min: 95%, harm_at: 1pp}", "gates[1].harm_at: prediction.agreement fails below its own min; remove the key"),
    ("  - {metric: latency.p99}", "  - {metric: prediction.mean, max_shift: 5%}", "gates[1].max_shift: found '5%'; a percent could be of two things; write 0.5pp (points), or 0.1sd"),
    ("  - {metric: latency.p99}", "  - {metric: prediction.mean, max_shift: 5pp}", "gates[1].max_shift: found 5pp; prediction.mean takes max_shift in sd or a plain number, such as 0.1sd"),
    ("  - {metric: latency.p99}", "  - {metric: errors, in: canary}", "10:5: gates[1]: errors in canary is already gates[0]; keep one, or part them by in"),
    (None, "risk: {false_promotion: 0%}", "11:25: risk.false_promotion: found '0%'; allowed: more than 0"),
    (None, "risk: {false_promotion: 51%}", "11:25: risk.false_promotion: found '51%'; allowed: at most 50%"),
    (None, "baseline: {requests: -1}", "11:22: baseline.requests: found -1; allowed: more than 0"),
    (None, "max_duration: 20m", "11:15: max_duration: found 1200s; the baseline and the steps alone take 2400s"),
    (None, "max_duration: 1000d", "11:15: max_duration: found '1000d'; allowed: a duration such as"),
    (None, "batch: 0s", "11:8: batch: found '0s'; allowed: more than 0"),
    (None, "breaker: {errors: 0%}", "11:19: breaker.errors: found '0%'; allowed: more than 0"),
    (None, "breaker: {min_request: 5}", "11:11: breaker.min_request: unknown key; did you mean 'min_requests'?"),
    (None, "on_fail: roll-back", "11:10: on_fail: found 'roll-back'; did you mean 'rollback'? allowed: rollback, pause"),
    (None, "on_inconclusive: promote", "11:18: on_inconclusive: found 'promote'; allowed: rollback, pause"),
    (None, "on_error: {after: 5m}", "11:11: on_error.action: this key is required; add it"),
    (None, "on_error: pause", "11:11: on_error: found 'pause'; allowed: a mapping"),
    (None, "windows: []", "11:1: windows: not supported yet; remove the key, and pause and resume by hand"),
    (None, "bake: {for: 24h}", "11:1: bake: not supported yet"),
    (None, "hooks: []", "11:1: hooks: not supported yet"),
    (None, "override: never", "11:1: override: not supported yet"),
]  # fmt: skip


def changed(text: str, old: str | None, new: str) -> str:
    if old is None:
        return text + new + "\n"
    assert old + "\n" in text
    return text.replace(old + "\n", new + "\n" if new else "", 1)


@pytest.mark.parametrize(
    ("old", "new", "told"), SERVICE_CASES, ids=[case[1] or "no name" for case in SERVICE_CASES]
)
def test_a_wrong_service_file_is_told_in_one_line(old: str | None, new: str, told: str) -> None:
    assert told in only(parse_service, changed(SERVICE, old, new))


@pytest.mark.parametrize(("old", "new", "told"), POLICY_CASES, ids=[case[1] for case in POLICY_CASES])
def test_a_wrong_policy_file_is_told_in_one_line(old: str | None, new: str, told: str) -> None:
    assert told in only(parse_policy, changed(POLICY, old, new))


def test_the_unchanged_files_are_right() -> None:
    parse_service(SERVICE)
    parse_policy(POLICY)


def test_every_problem_is_told_at_once_in_file_order() -> None:
    text = (
        POLICY.replace("for: 10m", "for: 10", 1).replace("canary: 50%", "canary: 1%")
        + "on_fail: never\nbake: {}\n"
    )
    assert [str(problem).partition(": ")[0] for problem in problems_of(parse_policy, text)] == [
        "f.yaml:5:25",  # a value
        "f.yaml:7:14",  # a rule, although the step above is broken
        "f.yaml:11:10",  # a word
        "f.yaml:12:1",  # a key that comes later
    ]


@pytest.mark.parametrize(
    ("steps", "gates", "told"),
    [
        ("[{shadow: 100%}]", "[{metric: errors}, {metric: latency.p99}]", "gates[1]: no step can decide it; add a canary step"),
        ("[{canary: 5%}]", "[{metric: errors}, {metric: prediction.agreement, min: 95%}]", "gates[1]: no step can decide it; add a shadow step or mirror_back to a canary step"),
        ("[{canary: 5%}]", "[{metric: errors, in: shadow}]", "gates[0]: no step can decide it; add a shadow step"),
        ("[{shadow: 5%, until: gates}, {canary: 5%}]", "[{metric: latency.p50}]", "steps[0].until: no gate is proven in shadow"),
        ("[{canary: 5%}]", "[{metric: errors, require: no-harm}]", "gates: nothing has to be proven"),
        ("[]", "[{metric: errors}]", "steps: found 0 entries; allowed: at least 1"),
        ("[{canary: 5%}]", "[]", "gates: found 0 entries; allowed: at least 1"),
    ],
)  # fmt: skip
def test_gates_and_steps_that_never_meet_are_refused(steps: str, gates: str, told: str) -> None:
    text = f"format: accede/v1\nkind: RolloutPolicy\nname: p\nsteps: {steps}\ngates: {gates}\n"
    assert told in only(parse_policy, text)


def test_what_was_found_is_never_a_credential() -> None:
    text = SERVICE.replace("http://tf-b:8501", "http://user:hunter2@tf-b:8501/x?key=hunter2")
    assert "hunter2" not in only(parse_service, text)


def test_no_text_of_the_libraries_reaches_users() -> None:
    everything = [
        *(only(parse_service, changed(SERVICE, old, new)) for old, new, _ in SERVICE_CASES),
        *(only(parse_policy, changed(POLICY, old, new)) for old, new, _ in POLICY_CASES),
    ]
    for line in everything:
        assert "Input should" not in line
        assert "pydantic" not in line
        assert "validation error" not in line
        assert "another value" not in line  # the fallback: a kind of error nobody translated
