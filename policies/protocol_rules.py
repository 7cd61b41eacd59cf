"""What a protocol asks of the versions of a service."""

from __future__ import annotations

from itertools import combinations

from .protocols import PROTOCOLS
from .quantities import found
from .reading import Reading, piece
from .service import Version
from .yaml import Data


def check_told_apart(versions: dict[str, Data], protocol: Data, reading: Reading) -> None:
    """Report two versions at one address that a request could not tell apart.

    A candidate that is in truth stable passes every gate and would be promoted without evidence.
    """
    spoken = PROTOCOLS.get(protocol) if isinstance(protocol, str) else None
    if spoken is None:
        return
    read = {
        name: version for name, value in versions.items() if (version := piece(Version, value)) is not None
    }
    for (earlier, one), (later, other) in combinations(read.items(), 2):
        shared = sorted({*one.addresses} & {*other.addresses})
        if not shared or (spoken.addresses(earlier) and spoken.addresses(later)):
            continue
        if protocol == "openai" and one.model != other.model:
            continue
        if spoken.in_url is not None:
            way = f"name both as the server does ({spoken.version_names}), or give each an address of its own"
        elif protocol == "openai":
            way = "give each its model, or an address of its own"
        else:
            way = "give each an address of its own"
        reading.add(
            ("versions", later),
            f"has the address of version {found(earlier)}, and a request of {protocol} would not tell them "
            f"apart; {way}",
        )
