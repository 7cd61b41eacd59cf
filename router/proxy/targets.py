"""Which calls predict, and how a protocol's URL names the version.

Only prediction calls are split, mirrored and analysed. A URL that pins a version is answered by that
version; everything else (health, metadata, explanations, other interfaces) is stable's. A service may lie
behind a path of its own, so patterns begin anywhere at a segment.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ...policies.protocols import PROTOCOLS


class _Urls(NamedTuple):
    """A protocol's URLs. `predicts`: of prediction calls, with `prefix` and `verb` around the version where
    the URL has a place for it, and a group `pinned` (a version) or `label` (stable's) where it has one in it.
    `pins`: of other calls that name a version in `pinned`. `between`: what separates prefix and version.
    """

    predicts: re.Pattern[str]
    pins: re.Pattern[str] | None = None
    between: str = "/versions/"


# TF Serving: POST /v1/models/M[/versions/N|/labels/L]:(predict|classify|regress)
_TENSORFLOW: Final = _Urls(
    re.compile(
        r"(?P<prefix>.*/v1/models/[^/:?]+)(?:/versions/(?P<pinned>[0-9]+)|/labels/(?P<label>[^/:?]+))?"
        r"(?P<verb>:(?:predict|classify|regress))"
    ),
    re.compile(r".*/v1/models/[^/:?]+/versions/(?P<pinned>[0-9]+)(?:/metadata|:[a-z]+)?"),
)
# Open Inference: POST /v2/models/M[/versions/V]/infer; generate and generate_stream are an extension.
_OPEN_INFERENCE: Final = _Urls(
    re.compile(
        r"(?P<prefix>.*/v2/models/[^/?]+)(?:/versions/(?P<pinned>[^/?]+))?"
        r"(?P<verb>/(?:infer|generate|generate_stream))"
    ),
    re.compile(r".*/v2/models/[^/?]+/versions/(?P<pinned>[^/?]+)(?:/.*)?"),
)
# TorchServe: POST /predictions/M[/V], /explanations/M[/V]. MLflow and SageMaker: POST /invocations.
_TORCHSERVE: Final = _Urls(
    re.compile(r"(?P<prefix>.*/predictions/[^/?]+)(?:/(?P<pinned>[^/?]+))?(?P<verb>)"),
    re.compile(r".*/explanations/[^/?]+/(?P<pinned>[^/?]+)"),
    between="/",
)
_INVOCATIONS: Final = _Urls(re.compile(r".*/invocations"))

_URLS: Final[dict[str, _Urls]] = {
    "tensorflow-serving": _TENSORFLOW,
    "kserve-v1": _Urls(re.compile(r".*/v1/models/[^/:?]+:predict")),
    "open-inference": _OPEN_INFERENCE,
    "mlflow": _INVOCATIONS,
    "torchserve": _TORCHSERVE,
    # A method of the service, at any path; not its health, and not the queue of a task.
    "bentoml": _Urls(
        re.compile(r".*/(?!(?:livez|readyz|healthz|metrics|submit|status|get|retry|cancel)\Z)[^/?]+")
    ),
    "sagemaker": _INVOCATIONS,
    "openai": _Urls(re.compile(r".*/v1/(?:chat/completions|completions|embeddings)")),
}


class CallKind(NamedTuple):
    """What a request is. `pinned`: version named by the URL. Where the version of the assigned arm goes into
    it: `prefix` and `verb` around it, and `protocol`.
    """

    predicts: bool
    pinned: str | None = None
    prefix: str = ""
    verb: str = ""
    protocol: str = ""


_OTHER = CallKind(predicts=False)
_PREDICTION = CallKind(predicts=True)


def call_kind(protocol: str, method: str, path: str) -> CallKind:
    """Classify a request of `protocol` by method and path (without the query)."""
    urls = _URLS.get(protocol)
    if urls is None:
        return _PREDICTION if method == "POST" else _OTHER
    found = urls.predicts.fullmatch(path)
    if found is not None and method == "POST":
        named = found.groupdict()
        if named.get("pinned") or named.get("label"):
            return CallKind(predicts=False, pinned=named["pinned"])
        if "prefix" not in named:
            return _PREDICTION
        return CallKind(predicts=True, prefix=named["prefix"], verb=named["verb"], protocol=protocol)
    pinned = found or (urls.pins.fullmatch(path) if urls.pins is not None else None)
    if pinned is None:
        return _OTHER
    return CallKind(predicts=False, pinned=pinned.groupdict().get("pinned"))


def addressed(kind: CallKind, path: str, version: str) -> str:
    """The path to send to `version`: rewritten where the URL has a place for it and it is such a name."""
    if kind.prefix and PROTOCOLS[kind.protocol].addresses(version):
        return f"{kind.prefix}{_URLS[kind.protocol].between}{version}{kind.verb}"
    return path
