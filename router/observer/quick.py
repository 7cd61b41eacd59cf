"""The shortest way from an ordinary JSON exchange to its prediction and slice groups.

Nearly every body has the same shape, so types are made from the plan's paths and msgspec decodes straight
into them, without objects for what nobody reads; one expression made from the same paths then picks the
values. Measured: a third of what decoding to dicts and walking through them takes. Whatever does not fit
(several instances, a key that is not there, NaN, another shape) is left to the extractor, which this must
agree with: tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import GenericAlias
from typing import Any, Final

import msgspec

from ...errors import WireError
from ...store.measurement import Extraction
from ..paths import EVERY, MISSING, Token, tokens_of
from .asides import Stated, stated_of
from .extract import Extractor
from .extras import Extras
from .formats import USUAL_PATHS
from .scores import Scorer
from .values import READERS


class _Node:
    """A place in documents: a leaf, an object with some keys, or a list of which all elements are alike."""

    def __init__(self) -> None:
        self.keys: dict[str, _Node] = {}
        self.element: _Node | None = None
        self.leaf = False

    def type(self) -> Any:
        """What msgspec decodes it to."""
        if self.leaf:
            return Any
        if self.element is not None:
            return GenericAlias(list, (self.element.type(),))
        fields = [(f"f{at}", node.type(), MISSING) for at, node in enumerate(self.keys.values())]
        names = {f"f{at}": key for at, key in enumerate(self.keys)}
        return msgspec.defstruct("Found", fields, rename=names, gc=False)

    def sound(self) -> bool:
        """False where two paths want different things of one place."""
        uses = self.leaf + bool(self.keys) + (self.element is not None)
        below = [*self.keys.values(), *([self.element] if self.element is not None else [])]
        return uses <= 1 and all(node.sound() for node in below)


# What decoding or picking raises for a body of another shape.
UNUSUAL: Final = (
    msgspec.MsgspecError, AttributeError, IndexError, TypeError, RecursionError, UnicodeDecodeError,
)  # fmt: skip


class Picker:
    """The values at some paths of a body: `pick(decode(body))`. They raise one of UNUSUAL, or give None,
    where the body is not of the usual shape.

    Each value goes through its function of `through`. A path with [*] gives the value of the only
    instance. A key that is not there at the end of a path gives MISSING.
    """

    def __init__(self, paths: Sequence[str], through: Sequence[Callable[[Any], Any]]) -> None:
        """Raises WireError where the paths cannot be read together."""
        root = _Node()
        single: dict[str, None] = {}
        picks = [_planted(root, tokens_of(path), single) for path in paths]
        if not picks or not root.sound() or root.leaf:
            raise WireError("these paths have no common type")
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(root.type()).decode
        wanted = "".join(f"g{at}({pick}), " for at, pick in enumerate(picks))
        alone = " and ".join(f"len({each}) == 1" for each in single)
        # Made of field names of our own and of numbers only: nothing a file says is evaluated.
        source = f"lambda d: ({wanted}) if {alone} else None" if alone else f"lambda d: ({wanted})"
        known = {"len": len, **{f"g{at}": each for at, each in enumerate(through)}}
        self.pick: Callable[[Any], tuple[Any, ...] | None] = eval(source, known)  # noqa: S307  (see above)


# A prediction with its y (see Scores), the group in every slice, the y of all extras, and how sure the answer
# is (None where nobody asks).
One = tuple[
    float | None, bool, int | None, Sequence[int], float | str, Sequence[float | None], Stated | None
]  # fmt: skip


class Quick:
    """Reads exchanges of one instance without content coding: their prediction, its y, their groups."""

    def __init__(
        self,
        prediction: str,
        slices: Sequence[tuple[str, Callable[[Any], int]]],
        read: Callable[[Any], float | str | None],
        score: Callable[[float | str], tuple[float | None, bool, int | None]],
        extras: Extras | None = None,
        crossings: Sequence[tuple[int, Callable[[Sequence[int]], int]]] = (),
        stated: str = "",
    ) -> None:
        """`slices`: path of each and what makes a group of its value; of a crossed one those of its parts,
        which `crossings` puts together (how many parts, and how). `stated`: path of how sure an answer is,
        '' where nobody asks. Raises WireError, see Picker.
        """
        beside: tuple[tuple[str, Callable[[Any], Any]], ...] = extras.beside if extras is not None else ()
        self._stated = bool(stated)
        if stated:
            beside = (*beside, (stated, stated_of))
        self._extras = extras if extras is not None and extras.names else None
        answer = Picker([prediction, *(path for path, _ in beside)], [read, *(of for _, of in beside)])
        self._decode_answer, self._pick_answer = answer.decode, answer.pick
        self._score = score
        self._sliced = bool(slices)
        self._crossings = crossings if any(parts > 1 for parts, _ in crossings) else ()
        if slices:
            request = Picker([path for path, _ in slices], [of for _, of in slices])
            self._decode_request, self._pick_request = request.decode, request.pick

    def exchange(self, request: bytes, response: bytes) -> One | None:
        """None where the bodies are not of the usual shape, or have no usable prediction."""
        try:
            found = self._pick_answer(self._decode_answer(response))
            groups = self._pick_request(self._decode_request(request)) if self._sliced else ()
        except UNUSUAL:
            return None
        if found is None or groups is None or found[0] is None:
            return None
        together = _crossed(groups, self._crossings) if self._crossings else groups
        value = found[0]
        y, selected, place = self._score(value)
        beside, stated = (found[1:-1], found[-1]) if self._stated else (found[1:], None)
        more = self._extras.plain(value, beside) if self._extras is not None else ()
        return y, selected, place, together, value, more, stated


def _crossed(
    groups: Sequence[int], crossings: Sequence[tuple[int, Callable[[Sequence[int]], int]]]
) -> tuple[int, ...]:
    at = 0
    together: list[int] = []
    for parts, of in crossings:
        together.append(groups[at] if parts == 1 else of(groups[at : at + parts]))
        at += parts
    return tuple(together)


def _planted(root: _Node, tokens: Sequence[Token], single: dict[str, None]) -> str:
    """Enter a path into the tree; its expression. `single`: lists that must hold one element."""
    node, text = root, "d"
    for token in tokens:
        if isinstance(token, str):
            if token not in node.keys:
                node.keys[token] = _Node()
            text += f".f{list(node.keys).index(token)}"
            node = node.keys[token]
            continue
        if token is EVERY:
            single[text] = None
        text += f"[{token or 0}]"
        if node.element is None:
            node.element = _Node()
        node = node.element
    node.leaf = True
    return text


def quick_of(
    extraction: Extraction, protocol: str, extractor: Extractor, scorer: Scorer, extras: Extras | None = None,
    *, stated: str = "",
) -> Quick | None:  # fmt: skip
    """The quick way for a plan, None where its paths or protocol have none. `stated`: see Quick."""
    path = extraction.path or USUAL_PATHS.get(protocol, "")
    if (
        protocol not in USUAL_PATHS
        or extraction.type not in {"number", "label"}
        or path.startswith("results")
    ):
        return None
    slices = [
        (part.path, grouping.of)
        for planned, crossing in zip(extractor.slices, extractor.crossings, strict=True)
        for part, grouping in zip(planned.cross or (planned,), crossing.parts, strict=True)
    ]
    crossings = [(len(crossing.parts), crossing.of) for crossing in extractor.crossings]
    try:
        return Quick(path, slices, READERS[extraction.type], scorer.plain, extras, crossings, stated)
    except WireError:
        return None
