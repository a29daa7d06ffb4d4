"""Seam: one client's stream out of several providers', when the first of them breaks off.

A stream can go on elsewhere where nothing but plain text has been given out: the next provider is told to go on from that text.
White space at the end of what is at hand is held back until it is known what follows. So the text that a client has never ends
in it, every format takes that text as it is (Anthropic refuses a prefill with white space at its end), and the answer is simply
both pieces put together: nothing is cut, repeated or guessed at the seam.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import orjson
from msgspec.structs import replace

from shared.domain.catalogue import Capability, Deployment
from shared.domain.usage import Usage
from shared.wire.canonical import (
    Begin,
    Call,
    Delta,
    End,
    Event,
    Failed,
    Reasoning,
    Start,
    Stop,
    Stopped,
    Text,
    ToolCall,
    Turn,
    Used,
)
from shared.wire.reply import gone_wrong
from shared.wire.translate import TranslatingTap, Translation


class Begun(msgspec.Struct, frozen=True):
    """An answer that a client has the beginning of."""

    text: str
    most_tokens: int | None
    """What is left of the output cap; None: there is none."""


def joinable(call: Call) -> bool:
    """Whether an answer to this may be made of two: one choice of free text, from a model that does not think first."""
    asked = call.reasoning
    return (
        call.choices == 1
        and (call.output is None or call.output.kind == "text")
        and (asked is None or asked.off or not asked.asked)
        and call.logprobs is None
        and bool(call.turns)
        and call.turns[-1].role == "user"
    )


class SeamTranslation(Translation):
    """One attempt's, of a call that may need several. `begun`: what the attempts before it gave out."""

    begun: Begun | None = None
    _decoded: Call | None = None

    def _shaped(self, call: Call, deployment: Deployment) -> Call:
        self._decoded = call
        begun = self.begun
        if begun is None:
            return call
        if begun.most_tokens is not None:
            call = replace(call, max_tokens=begun.most_tokens)
        if not begun.text:
            return call
        quirks = deployment.provider.quirks
        if quirks.reasoning in ("thinking", "enable_thinking") and Capability.REASONING in deployment.model.capabilities:
            call = replace(call, reasoning=Reasoning(effort="none"))  # a model that thinks does not go on from a text
        turn = Turn(role="assistant", parts=(Text(begun.text),))
        return replace(call, turns=(*call.turns, turn), goes_on=True)

    def tap(self, *, hide_usage: bool) -> SeamTap:
        assert self._decoded is not None
        return SeamTap(self, self._decoded)


class SeamTap(TranslatingTap):
    """As any tap, for as many legs as there are: what was heard is the leg's own, what the client gets is one stream."""

    def __init__(self, first: SeamTranslation, call: Call) -> None:
        client = first._client
        super().__init__(
            first._provider.stream_decoder(), client.stream_encoder(first._stamp), first._tools, client.encode_stream_error
        )
        self._call = call
        self._plain = joinable(call)
        self._given: list[str] = []
        self._blank = ""
        """White space that may turn out to be the last."""
        self._opened = self._ended = self._closed = False
        """The text's part, as the client sees it; and, `_closed`, the leg's decoder."""
        self._speaks = False
        """The leg has begun a text."""
        self._later = False
        self._shift = 0
        self._counted: Callable[[], Usage] | None = None
        self._before = Usage()
        """Of earlier legs, as they are charged."""

    @property
    def text(self) -> str:
        """What the client has."""
        return "".join(self._given)

    @property
    def safe(self) -> bool:
        """Whether another provider may go on from `text`."""
        if not self._plain or self._ended or self.finish_reason is not None:
            return False
        text = self.text
        # A stop sequence that lies across the seam would be found by neither side.
        return not any(text.endswith(stop[:size]) for stop in self._call.stop for size in range(1, len(stop)))

    @property
    def charged_output(self) -> int:
        """Output tokens of the earlier legs."""
        return self._before.output_tokens

    def charge(self, usage: Usage) -> None:
        """The leg at hand is over, and that much is charged for it."""
        self._before = added(self._before, usage)
        self._encoder.feed(Used(self._before))  # kept for the end; nothing is said before it

    def next_leg(self, bridge: SeamTranslation, counted: Callable[[], Usage]) -> None:
        """Another provider goes on. `counted`: what it is charged if it reports nothing."""
        self._counted = counted
        self._decoder, self._tools = bridge._provider.stream_decoder(), bridge._tools
        self._later, self._closed, self._speaks, self._blank = True, False, False, ""
        self.usage = self.finish_reason = self.error = None
        self.deltas = self.content_bytes = 0

    def close(self) -> bytes:
        """The leg's end; once."""
        if self._closed:
            return b""
        self._closed = True
        if self._counted is not None and self.usage is None:
            self._encoder.feed(Used(added(self._before, self._counted())))
        return super().close()

    def _event(self, event: Event) -> bytes:
        if self.error is not None:
            return b""
        match event:
            case Stopped(stop=Stop.ERROR) if self.first_token_seen:
                return self._event(Failed(gone_wrong(event.native)))
            case Failed():
                self.events += 1
                self.error = event.raw or orjson.dumps({"error": {"message": event.message}})
                return b""  # the flow says it, if nobody goes on
            case Used():
                self.events += 1
                self.usage = event.usage
                return self._encoder.feed(Used(added(self._before, event.usage)))
            case Start() if self._later:
                self.events += 1
                self.usage = event.usage
                return b""
            case Begin() | Delta() | End() if not self._plain:
                return super()._event(self._shifted(event))
            case Begin():
                return self._begin(event)
            case Delta():
                return self._delta(event)
            case End():
                self.events += 1
                return b""  # until it is known what follows: if the stream breaks off here, it can still go on
            case Stopped() if self._plain:
                return self._end() + super()._event(event)
        return super()._event(event)

    def _begin(self, event: Begin) -> bytes:
        if isinstance(event.part, Text) and not event.part.refusal and event.choice == 0 and not self._speaks:
            self._speaks = True
            if not self._opened:
                self._opened = True
                return super()._event(event)
            self.events += 1
            return b""  # the part is open already
        before = b""
        if self._opened:
            if not self._speaks:  # the first part of a later leg, and no text
                if not isinstance(event.part, ToolCall):
                    self.error = orjson.dumps({"error": {"message": "it began anew in the middle of an answer"}})
                    return b""
                self._shift = 1
            before = self._end()
        self._plain = False
        return before + super()._event(self._shifted(event))

    def _delta(self, event: Delta) -> bytes:
        self.deltas += 1
        self.content_bytes += len(event.text)
        text = self._blank + event.text
        given = text.rstrip()
        self._blank = text[len(given) :]
        if not given:
            self.events += 1
            self.first_token_seen = True
            return b""
        self._given.append(given)
        self.deltas -= 1
        self.content_bytes -= len(given)
        return super()._event(replace(event, text=given, index=0))

    def _end(self) -> bytes:
        """The text is whole: what was held back belongs to it."""
        if self._ended or not self._opened:
            return b""
        self._ended = True
        out = b""
        if self._blank:
            self._given.append(self._blank)
            out = self._encoder.feed(Delta(0, self._blank))
            self._blank = ""
        return out + self._encoder.feed(End(0, Text(self.text)))

    def _shifted(self, event: Begin | Delta | End) -> Begin | Delta | End:
        return replace(event, index=event.index + self._shift) if self._shift else event


def added(one: Usage, other: Usage) -> Usage:
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in Usage.__struct_fields__})
