"""What each protocol says by itself: where predictions stand, how versions are addressed, what is asked for
readiness. The one table of both planes; it imports nothing, so that a router's worker may read it.

Sources: TF Serving's RESTful API, KServe's v1 and Open Inference (v2) protocols, the model server's own
documentation of MLflow, TorchServe, BentoML, SageMaker containers ("Use your own inference code") and OpenAI.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_EVERYTHING: Final = ("number", "label", "labels", "vector", "text")
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,18}")  # TF Serving and Triton: folders named by an integer
_DOTTED: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")  # TorchServe: 1.0


@dataclass(frozen=True, slots=True)
class Spoken:
    """One protocol.

    `predicts_at`: where predictions stand when a file names no path, as prose for messages and pages; ''
    where only the model's author knows, so that a path has to be given. `roots`: what a prediction's path
    begins with; empty: anything. `types`: what predictions can be. `in_url`: version names that go into
    the URL of a call, in words in `version_names`; None: the URL has no place for one. `ready`: what to
    GET to see whether a server is ready, `{model}` filled in from the service's path; '' where there is
    nothing. `ready_version`: the same for a version that the URL can name; `ready_server`: where no model is
    known. `port`: where such servers listen unless told otherwise.
    """

    predicts_at: str
    roots: tuple[str, ...] = ()
    types: tuple[str, ...] = _EVERYTHING
    in_url: re.Pattern[str] | None = None
    version_names: str = ""
    ready: str = ""
    ready_version: str = ""
    ready_server: str = ""
    port: int = 8080

    def addresses(self, version: str) -> bool:
        """Whether a call's URL can name this version."""
        return self.in_url is not None and self.in_url.fullmatch(version) is not None


PROTOCOLS: Final[dict[str, Spoken]] = {
    "tensorflow-serving": Spoken(
        predicts_at="predictions[*], outputs[*] or results[*]",
        roots=("predictions", "outputs", "results"),
        in_url=_WHOLE_NUMBER,
        version_names="whole numbers",
        ready="/v1/models/{model}",
        port=8501,
    ),
    "kserve-v1": Spoken(predicts_at="predictions[*]", ready="/v1/models/{model}"),
    "open-inference": Spoken(
        predicts_at="the first output's elements, outputs[0][*], or text_output",
        roots=("outputs", "text_output"),
        in_url=_WHOLE_NUMBER,
        version_names="whole numbers",
        ready="/v2/models/{model}/ready",
        ready_version="/v2/models/{model}/versions/{version}/ready",
        ready_server="/v2/health/ready",
    ),
    "mlflow": Spoken(predicts_at="predictions[*]", ready="/ping", port=5000),
    "torchserve": Spoken(predicts_at="", in_url=_DOTTED, version_names="such as 1.0", ready="/ping"),
    "bentoml": Spoken(
        predicts_at="the whole answer, or every element where it is a list", ready="/readyz", port=3000
    ),
    "sagemaker": Spoken(predicts_at="", ready="/ping"),
    "openai": Spoken(
        predicts_at="the first choice's text, or an embedding",
        types=("label", "text", "vector"),
        ready="/health",
        port=8000,
    ),
    "json": Spoken(predicts_at="", port=8000),
}
