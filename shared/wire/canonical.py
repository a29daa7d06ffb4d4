"""Canonical: the hub of all wire formats. Turns of typed parts, tools apart, streams as events; nobody's own shape.

A codec is a module per format, pure, in two halves (a provider-only format has only the second):

    client half    read_facts, decode_call, encode_reply, StreamEncoder, encode_refusal, encode_stream_error
    provider half  encode_call, decode_reply, StreamDecoder, decode_error_message

Rules that every codec keeps:
- A reply is the fold of its events: `fold(decode_stream(x)) == decode_reply(y)` for the same answer.
- Events are strictly sequential per choice: at most one part is open. Decoders of formats that interleave hold back.
- Decoders are lenient in what providers send; `decode_call` is strict about types, and its refusals name the client's field.
- What `encode_call` cannot express it refuses (400, naming the field) or lists in `dropped`, where the vendor's own
  convention is to ignore it. Nothing is lost silently.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal

import msgspec

from shared.domain.usage import Usage

Role = Literal["system", "user", "assistant"]


class Cache(msgspec.Struct, frozen=True):
    """A cache breakpoint (Anthropic's cache_control) after the part or tool that carries it. `ttl`: "5m", "1h" or None."""

    ttl: str | None = None


class Text(msgspec.Struct, frozen=True):
    text: str
    cache: Cache | None = None
    refusal: bool = False
    """The model's refusal, as OpenAI tells it apart from content."""


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """An image, audio, video or document: base64 `data`, or a `url`, or a provider's `file_id`."""

    kind: Literal["image", "audio", "video", "document"]
    media_type: str | None = None
    """`image/png`; None when unknown, as with most URLs."""
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    name: str | None = None
    detail: str | None = None
    cache: Cache | None = None


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """Reasoning. `signature` proves it to the provider family `origin` that made it, and is worth nothing to others."""

    text: str = ""
    signature: str | None = None
    origin: str | None = None
    """`anthropic`, `gemini`, `openai`: whose signature it is; None: unsigned."""
    redacted: bool = False
    """No text: the provider gave only the signed, encrypted form."""
    item_id: str | None = None
    """OpenAI Responses' id of a reasoning item."""

    def proves(self, origin: str) -> bool:
        """Whether that provider family takes it back."""
        return self.signature is not None and self.origin == origin


def qualified(name: str, namespace: str | None) -> str:
    """A tool's name for formats without namespaces."""
    return f"{namespace}__{name}" if namespace else name


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """The model asks for a tool. `arguments` is JSON text for a function, free text for a custom tool."""

    id: str
    name: str
    arguments: str = ""
    custom: bool = False
    namespace: str | None = None
    signature: str | None = None
    """Gemini's thoughtSignature of this call."""
    cache: Cache | None = None

    @property
    def full_name(self) -> str:
        return qualified(self.name, self.namespace)


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool answered: a part of a user turn, before the turn's other parts."""

    call_id: str
    name: str | None = None
    parts: tuple[Text | Media, ...] = ()
    is_error: bool = False
    custom: bool = False
    cache: Cache | None = None


Part = Text | Media | Thinking | ToolCall | ToolResult


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Parts in their order. Leading system turns are `Call.system`; a system turn here came in mid-conversation."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None


NO_INPUT: dict[str, Any] = {"type": "object", "properties": {}}
TEXT_INPUT: dict[str, Any] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function (`schema` is its JSON Schema) or a custom tool (`grammar`: OpenAI's format object, None for free text)."""

    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    custom: bool = False
    grammar: dict[str, Any] | None = None
    namespace: str | None = None
    cache: Cache | None = None

    @property
    def full_name(self) -> str:
        return qualified(self.name, self.namespace)

    @property
    def input_schema(self) -> dict[str, Any]:
        """As a function's: a custom tool's text goes as its one argument."""
        if self.custom:
            return TEXT_INPUT
        return NO_INPUT if self.schema is None else self.schema


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """`any`: the model must call some tool; `tool`: this one."""

    mode: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    allowed: tuple[str, ...] = ()
    """Gemini's allowedFunctionNames, with `any`."""


EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
EFFORT_SHARE = {"max": 95, "xhigh": 95, "high": 80, "medium": 50, "low": 20, "minimal": 10}
"""Percent of the output cap that an effort is worth as a budget (OpenRouter's rule), and the other way round."""


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """How much the model shall think. `effort` is one of EFFORTS; "none" and `budget_tokens` 0 turn it off."""

    effort: str | None = None
    budget_tokens: int | None = None
    show: bool | None = None
    """Whether the client wants to see it; None: the format's default."""
    summary: str | None = None
    """OpenAI Responses: auto, concise or detailed."""

    @property
    def asked(self) -> bool:
        """Whether the client said how much; else it only said what it wants to see."""
        return self.effort is not None or self.budget_tokens is not None

    @property
    def off(self) -> bool:
        return self.effort == "none" or self.budget_tokens == 0

    def as_effort(self, max_tokens: int | None) -> str | None:
        """The nearest effort; `max_tokens` is what a budget is a share of."""
        if self.effort is not None or self.budget_tokens is None:
            return self.effort
        if self.budget_tokens == 0:
            return "none"
        if self.budget_tokens < 0 or not max_tokens:
            return "medium"
        share = self.budget_tokens * 100 // max_tokens
        return next(
            effort for effort in ("high", "medium", "low", "minimal") if share >= EFFORT_SHARE[effort] or effort == "minimal"
        )

    def as_budget(self, max_tokens: int, least: int = 0) -> int | None:
        """The budget in tokens, within [least, max_tokens); None when neither was given."""
        if self.budget_tokens is not None and self.budget_tokens >= 0:
            return min(max(self.budget_tokens, least), max(least, max_tokens - 1))
        if self.effort is None:
            return None
        share = EFFORT_SHARE.get(self.effort, 0)
        return min(max(max_tokens * share // 100, least), max(least, max_tokens - 1)) if share else 0


class OutputFormat(msgspec.Struct, frozen=True, kw_only=True):
    """`text`, `json` (any object), or `schema`."""

    kind: Literal["text", "json", "schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call for a model's next turn. None: the client did not say."""

    model: str
    turns: tuple[Turn, ...]
    system: tuple[Text, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    logprobs: int | None = None
    """How many alternatives per token; 0: only the token's own."""
    logit_bias: dict[str, Any] | None = None
    output: OutputFormat | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    user: str | None = None
    service_tier: str | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    goes_on: bool = False
    """The last turn is the beginning of the answer (seam.py): the model is to go on from it."""
    stream: bool = False
    include_usage: bool = False
    """Chat: whether the stream shall end with a usage chunk. Other formats always tell."""
    format: str = "openai-chat"
    """The client's wire format."""
    native: dict[str, Any] = {}
    """Fields of the client's format that the hub has no word for: its name → value. An encoder of the same format family
    sends them on; every other lists them as dropped."""
    extra: dict[str, Any] = {}
    """Fields that the client's format does not know: meant for the provider, and passed on (`safe_prompt`)."""
    left_out: tuple[str, ...] = ()
    """The client's fields that decoding left out, because only its own vendor could serve them (hosted tools)."""
    names: dict[str, str] = {}
    """The hub's word → the client's field, where they differ: refusals speak the client's language."""

    def named(self, field: str) -> str:
        return self.names.get(field, field)

    def unheard(self, sent: Callable[[Thinking], object]) -> list[str]:
        """What the client calls the reasoning that it sends back, if not all of it is `sent` to the provider."""
        lost = any(isinstance(part, Thinking) and not sent(part) for turn in self.turns for part in turn.parts)
        return [self.named("thoughts")] if lost else []


class Stop(StrEnum):
    """Why the model stopped."""

    END = "end"
    LENGTH = "length"
    TOOL = "tool"
    SEQUENCE = "sequence"
    FILTER = "filter"
    REFUSAL = "refusal"
    PAUSE = "pause"
    ERROR = "error"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    parts: tuple[Text | Media | Thinking | ToolCall, ...]
    stop: Stop
    stop_sequence: str | None = None
    logprobs: Any = None
    """OpenAI's shape: `{"content": [...]}`."""
    native: str | None = None
    """The provider's own word for why it stopped."""


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """A source that an answer names, and the characters [start, end) of its last text that rest on it."""

    url: str
    title: str = ""
    quote: str = ""
    """Of the source, as far as the provider tells."""
    start: int | None = None
    end: int | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    model: str | None = None
    """The provider's own name of what answered."""
    citations: tuple[Citation, ...] = ()


# -- a stream's events, in the order in which they can come: Start, then per part Begin, Delta*, End; then Stopped per
# -- choice; Used whenever known (the last one counts); Failed ends it early. Cited comes before the End of the text that it is
# -- about, or, where tool calls followed the text, before Stopped.


class Start(msgspec.Struct, frozen=True, tag=True):
    model: str | None = None
    usage: Usage | None = None
    """What is known of it beforehand: Anthropic tells the input's."""


class Begin(msgspec.Struct, frozen=True, tag=True):
    """A part opens; `part` has its id and name, and no content yet. `index` counts the parts of the choice."""

    index: int
    part: Text | Media | Thinking | ToolCall
    choice: int = 0


class Delta(msgspec.Struct, frozen=True, tag=True):
    """More of the open part: text, reasoning, or a tool call's arguments."""

    index: int
    text: str
    choice: int = 0
    logprobs: Any = None


class End(msgspec.Struct, frozen=True, tag=True):
    """The part is complete. `part` is the whole of it."""

    index: int
    part: Text | Media | Thinking | ToolCall
    choice: int = 0


class Stopped(msgspec.Struct, frozen=True, tag=True):
    stop: Stop
    choice: int = 0
    stop_sequence: str | None = None
    native: str | None = None


class Cited(msgspec.Struct, frozen=True, tag=True):
    """The answer's sources: all of them, at once."""

    citations: tuple[Citation, ...]
    choice: int = 0


class Used(msgspec.Struct, frozen=True, tag=True):
    usage: Usage


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The provider's error in the midst of a stream."""

    message: str
    raw: bytes = b""


Event = Start | Begin | Delta | End | Stopped | Cited | Used | Failed


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What an encoded answer says of itself. Minted by the flow: codecs have no clock."""

    event_id: str
    """The call's UUIDv7; each format prefixes it in its own way."""
    created_s: int
    model: str
    """As the client asked for it."""
    include_usage: bool = True
    show_thinking: bool = True
    sse: bool = True
    """Gemini: server-sent events, else one JSON array."""
    call: Call | None = None
    """The call that is answered, for formats that echo it."""
    previous_response_id: str | None = None
    stored: bool = False
    """Responses: whether a later call can refer to this one."""
    native_finish: bool = False
    """Chat: whether choices tell the provider's own finish reason (OpenRouter)."""


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's body. `dropped`: the client's fields that are not in it. `names`: mangled tool name → the client's own.
    `betas`: values for the provider's feature header."""

    body: bytes
    dropped: tuple[str, ...] = ()
    names: dict[str, str] = {}
    betas: tuple[str, ...] = ()


SIGNED = "wsy1."
"""Marks a signature that we packed: whose it is goes with it, so that it comes back to its maker and to nobody else."""


def pack_signature(signature: str, origin: str | None, home: str) -> str:
    """A signature for a client whose format is `home`'s: its own travel as they are."""
    return signature if origin in (home, None) else f"{SIGNED}{origin}.{signature}"


def unpack_signature(packed: str, home: str) -> tuple[str, str]:
    """(signature, origin) of what a client sent back."""
    if not packed.startswith(SIGNED):
        return packed, home
    origin, _, signature = packed[len(SIGNED) :].partition(".")
    return signature, origin
