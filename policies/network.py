"""What a service file says about the way to its model servers: TLS, balancing, readiness, forwarding.

Values only, as in `service`. Every default is a decision with a reason, which docs/router.md states.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .quantities import Duration, Fraction, Value


class Tls(Value):
    """How an https address is verified, and how the router identifies itself. Paths are its host's."""

    verify: bool = Field(
        default=True,
        description="Verify certificate and name of the model server; false only on a trusted network.",
    )
    ca: str | None = Field(
        default=None, description="PEM file of the certificates to trust; without it the system's."
    )
    certificate: str | None = Field(
        default=None, description="PEM file of the router's own certificate, where the server asks for one."
    )
    key: str | None = Field(default=None, description="PEM file of that certificate's private key.")
    server_name: str | None = Field(
        default=None, description="The name to verify and to ask for; without it the host of the URL."
    )


class Balance(Value):
    """How requests are spread over a version's URLs, and when one is left out for a while."""

    by: Literal["least-requests", "round-robin"] = Field(
        default="least-requests",
        description="least-requests: of two chosen at random, the one with fewer open requests.",
    )
    eject_after: int = Field(
        default=5,
        ge=1,
        description="So many failures in a row (connection, timeout, 5xx) take a URL out of the rotation.",
    )
    eject_for: Annotated[Duration, Field(gt=0)] = Field(
        default=10.0, description="For how long at first; it grows with every ejection in a row."
    )
    max_ejected: Fraction = Field(
        default=0.5, description="At most this share of a version's URLs is out at one time."
    )


class Readiness(Value):
    """How a worker asks a model server whether it is ready."""

    probe: bool = Field(default=True, description="false: never ask; every URL counts as ready.")
    path: str | None = Field(
        default=None,
        description="What to GET; 200 to 299 is ready. The protocol gives a default; json has none.",
        examples=["/healthz"],
    )
    every: Annotated[Duration, Field(gt=0)] = Field(default=5.0, description="Time between two probes.")
    timeout: Annotated[Duration, Field(gt=0)] = Field(
        default=2.0, description="A probe without an answer by then has failed."
    )
    unready_after: int = Field(default=2, ge=1, description="So many failed probes in a row: not ready.")


class Forwarding(Value):
    """What the router adds to a request on its way; nothing by default."""

    client: Literal["none", "x-forwarded", "forwarded"] = Field(
        default="none",
        description="Tell the model server who asked: X-Forwarded-For/-Host/-Proto, or Forwarded (RFC 7239).",
    )
    via: bool = Field(default=False, description="Add Via to requests and answers (RFC 9110, section 7.6.3).")


class Override(Value):
    """Who may choose the version of single requests with the header x-accede-arm."""

    token: str = Field(
        description="Where the controller finds the token that such requests carry in x-accede-token.",
        examples=["env:ACCEDE_OVERRIDE_TOKEN"],
    )
