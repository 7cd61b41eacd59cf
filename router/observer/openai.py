"""OpenAI-compatible answers: chat completions, completions and embeddings, whole or as a stream of chunks.

A stream is put together into the document that the server would have sent without `stream: true`, so one
path reads both. Shapes: OpenAI's API reference, "Chat Completions" with its chunk object, "Completions",
"Embeddings"; servers that are compatible add reasoning_content and tell errors in the stream, under 200, as
`{"error": …}` or `{"object": "error", …}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec

from ..paths import MISSING, kind_of
from .decode import decoded, read_json
from .formats import Json
from .streams import Event, events, is_stream, seconds_at

_DONE: Final = b"[DONE]"
_MAX_CHOICES: Final = 128  # the API's own limit of `n`
_MAX_TOKENS: Final = 10_000_000  # beyond any context; a larger number is no count

Document = dict[str, Any]


class Reply(NamedTuple):
    """What an answer tells.

    `values`: what stands where predictions stand, None where nothing does. `failed`: an error was told in
    the body. `streamed`: it came as events. `spoke`: there was output. `first`: seconds to the first piece
    of it, None where nobody knows. `ended`: it was said that the stream is complete. `limited`: the output
    ended at its length limit. `tokens` of output, None where nothing tells.
    """

    values: list[Any] | None
    failed: bool = False
    streamed: bool = False
    spoke: bool = True
    first: float | None = None
    ended: bool = True
    limited: bool = False
    tokens: int | None = None


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int = 0
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None


class _Asked(msgspec.Struct, gc=False):
    stream: Any = None


_chunk = msgspec.json.Decoder(_Chunk).decode
_asked = msgspec.json.Decoder(_Asked).decode


class OpenAi(Json):
    """OpenAI-compatible servers. Without a path: what the first choice says, or all embeddings."""

    def __init__(self, path: str, *, number: bool) -> None:
        super().__init__(path or "choices[0].message.content", number=number)
        self._anywhere = not path

    def found(self, document: Any) -> list[Any] | None:
        """See Json."""
        return _anywhere(document) if self._anywhere else super().found(document)

    def predictions(self, body: bytes, encoding: str, head: int) -> list[Any] | None:  # noqa: ARG002
        """See Format."""
        return self.reply(body, encoding).values

    def reply(self, body: bytes, encoding: str, marks: Sequence[tuple[int, float]] = ()) -> Reply:
        """Everything an answer tells. `marks`: see facts.Body; they count bytes as they were sent."""
        if encoding:
            plain = decoded(body, encoding)
            if plain is None:
                return Reply(None)
            body, marks = plain, ()
        if is_stream(body):
            return self._streamed(body, marks)
        document = read_json(body, "")
        if kind_of(document) is not dict:
            return Reply(None)
        if _is_error(document):
            return Reply(None, failed=True)
        return Reply(
            self.found(document), limited=_is_limited(document), tokens=_tokens(document.get("usage"))
        )

    def _streamed(self, body: bytes, marks: Sequence[tuple[int, float]]) -> Reply:
        told = _Told()
        for event in events(body):
            if event.data == _DONE:
                told.done = True
                break
            told.take(event)
        first = seconds_at(marks, told.first_end) if told.first_end else None
        document = told.document()
        # What came before an error is no answer; before a cut it is what the user got.
        values = None if told.failed or document is None else self.found(document)
        choices = told.choices.values()
        ended = told.done or (bool(choices) and all(choice.finish for choice in choices))
        return Reply(
            values, told.failed, True, told.first_end > 0, first, ended and not told.failed,
            any(choice.finish == "length" for choice in choices),
            told.usage if told.usage is not None else told.deltas or None,
        )  # fmt: skip


def wants_stream(request: bytes, encoding: str) -> bool:
    """Whether a request asks for a stream; False where it cannot be read."""
    plain = decoded(request, encoding) if encoding else request
    if plain is None:
        return False
    try:
        return _asked(plain).stream is True
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        document = read_json(plain, "")
        return kind_of(document) is dict and document.get("stream") is True


class _Saying:
    """One choice as its chunks come."""

    __slots__ = ("calls", "finish", "is_text", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.is_text = False  # `text` of completions, not `delta` of chats
        self.calls: dict[int, list[str]] = {}
        self.finish: str | None = None

    def take(self, choice: _Choice) -> bool:
        """Whether the chunk brought output."""
        self.finish = choice.finish_reason or self.finish
        delta = choice.delta
        if delta is None:
            if not choice.text:
                return False
            self.is_text = True
            self.text.append(choice.text)
            return True
        said = delta.content or delta.refusal
        if said:
            self.text.append(said)
        for call in delta.tool_calls or ():
            if call.function is not None and (call.index in self.calls or len(self.calls) < _MAX_CHOICES):
                name, arguments = call.function.name or "", call.function.arguments or ""
                self.calls.setdefault(call.index, []).append(f"{name}(" if name else arguments)
                if name and arguments:
                    self.calls[call.index].append(arguments)
        return bool(said or delta.reasoning_content or delta.reasoning or delta.tool_calls)

    def document(self, index: int) -> Document:
        """The choice as it would stand in an answer that is no stream."""
        text = "".join(self.text)
        whole: Document = {"index": index, "finish_reason": self.finish}
        if self.is_text:
            return {**whole, "text": text}
        calls = ["".join(self.calls[at]).partition("(") for at in sorted(self.calls)]
        functions = [{"function": {"name": name, "arguments": given}} for name, _, given in calls]
        return {**whole, "message": {"role": "assistant", "content": text or None, "tool_calls": functions}}


class _Told:
    """A stream as its events come."""

    __slots__ = ("choices", "deltas", "done", "failed", "first_end", "usage")

    def __init__(self) -> None:
        self.choices: dict[int, _Saying] = {}
        self.usage: int | None = None
        self.deltas = 0
        self.done = self.failed = False
        self.first_end = 0

    def take(self, event: Event) -> None:
        """One event; what is no chunk says nothing."""
        chunk = _read(event.data)
        if event.name == b"error" or (
            chunk is not None and (chunk.error is not None or chunk.object == "error")
        ):
            self.failed = True
        if chunk is None:
            return
        if chunk.usage is not None:
            self.usage = _count(chunk.usage.completion_tokens)
        for choice in chunk.choices or ():
            saying = self.choices.get(choice.index)
            if saying is None:
                if not 0 <= choice.index < _MAX_CHOICES:
                    continue
                saying = self.choices[choice.index] = _Saying()
            if saying.take(choice):
                self.deltas += 1
                self.first_end = self.first_end or event.end

    def document(self) -> Document | None:
        """All choices in order, those that never spoke empty; None without any."""
        if not self.choices:
            return None
        last = max(self.choices)
        spoken = self.choices
        return {"choices": [spoken[at].document(at) if at in spoken else {} for at in range(last + 1)]}


def _read(data: bytes) -> _Chunk | None:
    try:
        return _chunk(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        document = read_json(data, "")  # NaN among probabilities is no reason to lose the text
        try:
            return None if document is MISSING else msgspec.convert(document, _Chunk)
        except (msgspec.MsgspecError, RecursionError):
            return None


def _anywhere(document: Any) -> list[Any] | None:
    """The embeddings of all inputs, or what the first choice says: its text, or else the calls it makes."""
    if kind_of(document) is not dict:
        return None
    data, choices = document.get("data"), document.get("choices")
    if kind_of(data) is list:
        items = cast("list[Any]", data)
        return [item.get("embedding") if kind_of(item) is dict else None for item in items]
    if kind_of(choices) is not list or not choices or kind_of(choices[0]) is not dict:
        return None
    choice = cast("Document", choices[0])
    message: Any = choice.get("message")
    if kind_of(message) is not dict:
        return [choice.get("text")]
    said = message.get("content") or message.get("refusal")
    if not said and kind_of(message.get("tool_calls")) is list:
        said = "\n".join(map(_called, message["tool_calls"]))
    return [said]


def _called(call: Any) -> str:
    function: Any = call.get("function") if kind_of(call) is dict else None
    if kind_of(function) is not dict:
        return ""
    return f"{function.get('name', '')}({function.get('arguments', '')})"


def _is_error(document: Document) -> bool:
    if document.get("object") == "error":
        return True
    return bool(document.get("error")) and "choices" not in document and "data" not in document


def _is_limited(document: Document) -> bool:
    choices = document.get("choices")
    return kind_of(choices) is list and any(
        kind_of(choice) is dict and choice.get("finish_reason") == "length"
        for choice in cast("list[Any]", choices)
    )


def _tokens(usage: Any) -> int | None:
    return _count(usage.get("completion_tokens")) if kind_of(usage) is dict else None


def _count(value: Any) -> int | None:
    return value if kind_of(value) is int and 0 <= value <= _MAX_TOKENS else None
