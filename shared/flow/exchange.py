"""One call's walk through the gateway, from its arrival to its booked usage.

    accept   who asks, what, in which format
    admit    plan it, price it, one Redis trip: limits, budgets, a reservation
    attempts one deployment after the other, until one answers
    attempt  encode, sign, send, classify
    relay    the provider's bytes to the client, usage picked out on the way
    settle   tokens → cost → local log, settlement and usage event, whatever happened

The files of this folder are those stages, and sort in the order in which they run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any, Protocol

from shared.admission.gate import Gate, Reservation
from shared.clock import Clock
from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.decision import Tried
from shared.domain.failure import Failure
from shared.domain.identity import uuid7
from shared.domain.refusal import Refused
from shared.domain.routing import Route
from shared.domain.usage import Outcome, Usage, UsageEvent
from shared.flow import accept, admit, attempts, prewarm, relay, settle, slot
from shared.flow.hedge import Race
from shared.flow.sessions import Session, Sessions
from shared.routing.hedging import HedgeBudget
from shared.routing.plan import Plan
from shared.routing.retries import RetryBudget
from shared.settings import Settings
from shared.snapshot.snapshot import KeyEntry, Snapshot
from shared.store.responses import Responses
from shared.store.secrets import Vault
from shared.store.wal import Wal
from shared.telemetry.log import Log
from shared.telemetry.metrics import Metrics
from shared.telemetry.trace import Tracer
from shared.upstream.credentials import Credentials
from shared.upstream.health.health import Health, Probe
from shared.upstream.load import Load
from shared.upstream.proxies import Proxies
from shared.upstream.slots.slots import Slot, Slots
from shared.upstream.transport import Transport, UpstreamResponse
from shared.wire.codec import Bridge
from shared.wire.envelope import Envelope
from shared.wire.extensions import Extensions
from shared.wire.inline import Fetched
from shared.wire.openai_chat import ChatCall
from shared.wire.seam import Begun
from shared.wire.transcription import Step

Headers = dict[str, str]


class Operation:
    """What is asked of a model; the names are those of a provider's endpoints (providers/catalogue). Plain strings: an enum's
    hash is computed in Python at each look-up."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    IMAGES = "images"
    MODERATIONS = "moderations"
    RERANK = "rerank"
    SPEECH = "speech"
    TRANSCRIPTIONS = "transcriptions"


class Sink(Protocol):
    """Where an answer goes: a whole reply, or a started stream of chunks."""

    @property
    def started(self) -> bool: ...

    def reply(self, headers: Headers, body: bytes) -> None: ...

    async def start(self, headers: Headers) -> None: ...

    async def write(self, chunk: bytes) -> None: ...


@dataclass(slots=True)
class Arrival:
    """What came in: the head, and a way to read the body (only after the key was accepted)."""

    operation: str
    wire_format: WireFormat
    credential: str | None
    content_type: str | None
    traceparent: str | None
    read_body: Callable[[], Awaitable[bytes]]
    model: str | None = None
    """From the URL, where the format has it there."""
    sse: bool = True
    """Whether a stream shall be server-sent events: Gemini's clients may want one JSON array."""
    provider: str | None = None
    """From the URL of a provider's own route: models of others are refused, and its prefix may be left out."""
    stream: bool | None = None
    openrouter: bool = False
    """At /api/v1: the answer has what OpenRouter's have (flow/openrouter.py)."""
    session: str | None = None
    """`x-session-id`, as OpenRouter's clients send it."""
    headers: tuple[tuple[str, str], ...] = ()
    """The client's own that go on to a provider of the same format (anthropic-beta)."""
    deadline: str | None = None
    """`x-waystation-deadline-s`, as it was sent."""


@dataclass(slots=True)
class Gateway:
    """What lives as long as the node and every call needs."""

    node: str
    settings: Settings
    snapshot: Callable[[], Snapshot]
    vault: Vault
    gate: Gate
    wal: Wal
    transport: Transport
    media: Transport
    """For URLs that clients name: guarded."""
    credentials: Credentials
    health: Health
    slots: Slots
    proxies: Proxies
    responses: Responses
    metrics: Metrics
    tracer: Tracer
    log: Log
    clock: Clock
    retries: RetryBudget = field(default_factory=RetryBudget)
    hedges: HedgeBudget = field(default_factory=HedgeBudget)
    load: Load = field(default_factory=Load)
    sessions: Sessions = field(default_factory=Sessions)
    quota_left: Callable[[Deployment], float | None] | None = None
    """The part of a deployment's quota that is left, from 0 to 1; None: not known."""
    in_flight: int = 0
    draining: bool = False


@dataclass(slots=True)
class Exchange:
    """One call's state; each stage fills in its part."""

    gateway: Gateway
    arrival: Arrival
    sink: Sink
    snapshot: Snapshot
    event_id: str
    started_s: float
    # accept
    key: KeyEntry = field(init=False)
    envelope: Envelope = field(init=False)
    call: ChatCall = field(init=False)
    body_bytes: int = 0
    extensions: Extensions | None = None
    """What the call asks of the gateway in OpenRouter's words; None: nothing."""
    session: Session | None = None
    deadline_s: float = 0.0
    """Monotonic: by then an answer must have begun (a stream) or be whole."""
    # admit
    route: Route | None = None
    """What the asked name stands for; None: a model."""
    plan: tuple[Deployment, ...] = ()
    decision: Plan | None = None
    """Why the plan is as it is; None where there was nothing to decide."""
    deployment: Deployment = field(init=False)
    """The one that the attempt under way goes to."""
    attempts: int = 0
    """How many of the plan, from its beginning, have been asked."""
    race: Race | None = None
    """While another attempt may still be faster (hedge.py)."""
    began_s: float = 0.0
    """When the attempt under way began."""
    taking: asyncio.Future[Slot] | None = None
    """The first deployment's slot, where its connection has limits: asked for together with the admission."""
    slot: Slot | None = None
    entered: bool = False
    """The attempt under way has passed the door (door.py)."""
    said: UpstreamResponse | None = None
    """The provider's answer: its status and headers say what is left of its limits."""
    probe: Probe | None = None
    """The right to ask a deployment that is shut, where this call has it."""
    passed_over: str = ""
    """Why the deployment was not asked (`unsuited`, `skipped`)."""
    tried: tuple[Tried, ...] = ()
    """The attempts before it."""
    intended: bool = False
    """The log has the intent. The first attempt need not write it: its credential may be unusable."""
    reservation: Reservation | None = None
    headers: Headers = field(default_factory=dict)
    # attempt and relay
    bridge: Bridge = field(init=False)
    step: Step = field(init=False)
    """The last request, where a call takes several (transcribe.py)."""
    fetched: dict[str, Fetched] = field(default_factory=dict)
    """By URL: what providers that take only bytes get of it."""
    begun: Begun | None = None
    """What the client has of the answer, where the attempt under way goes on from it (continuation.py)."""
    dropped: list[str] = field(default_factory=list)
    left_out_bytes: int = 0
    """Of the body: what the attempt under way did not send of it (middle-out)."""
    sent_s: float | None = None
    first_token_s: float | None = None
    failure: Failure | None = None
    outcome: Outcome = Outcome.UNKNOWN
    usage: Usage | None = None
    streamed_deltas: int = 0
    streamed_bytes: int = 0
    finish_reason: str | None = None
    previous_response_id: str | None = None
    history: list[Any] | None = None
    """Responses: every item of the input, those of earlier responses included; None: the answer is not to be kept."""
    # settle
    event: UsageEvent | None = None


def begin(gateway: Gateway, arrival: Arrival, sink: Sink) -> Exchange:
    """The snapshot is taken once: a change of configuration never reaches a call half-way."""
    clock = gateway.clock
    event_id = uuid7(int(clock.now_s() * 1000), getrandbits(80))
    return Exchange(gateway, arrival, sink, gateway.snapshot(), event_id, clock.monotonic_s())


async def run(x: Exchange) -> None:
    """The whole walk. Raises Refused while nothing has been sent to the client; afterwards the stream itself says it."""
    gateway = x.gateway
    gateway.in_flight += 1
    try:
        await accept.accept(x)
        if x.call.max_tokens == 0 and x.arrival.operation == Operation.CHAT and await prewarm.answered(x):
            return
        await admit.admit(x)
        try:
            await attempts.answer(x)
        except Refused:
            raise
        except BaseException as error:
            x.outcome = relay.outcome_of(error)
            raise
        finally:
            settle.settle(x)
    finally:
        slot.dropped(x)
        gateway.in_flight -= 1
