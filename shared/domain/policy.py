"""What may and must not serve a call: a key's policy, a client's preferences, and what the call itself needs."""

from __future__ import annotations

import msgspec


class KeyPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a key may use. Empty fields allow everything; patterns are those of aliases (`*`, `?`)."""

    models: tuple[str, ...] = ()
    """`prefix/model-id`, or the name of a route, which then allows what it leads to."""
    providers: tuple[str, ...] = ()
    """Names of providers, or prefixes of connections."""
    no_training: bool = False
    """Only providers that say that they do not train on prompts."""
    zero_retention: bool = False
    """Only providers that say that they keep nothing."""
    regions: tuple[str, ...] = ()
    """Only providers that say that they are in one of these; `eu` stands for `eu-west-1` too."""
    max_input_nano_per_mtok: int | None = None
    max_output_nano_per_mtok: int | None = None

    def __bool__(self) -> bool:
        return self != NO_POLICY


NO_POLICY = KeyPolicy()


class Foreign(msgspec.Struct, frozen=True):
    """Something that a call asks for in OpenRouter's words and that only OpenRouter has: the field, and what to do."""

    field: str
    why: str


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """OpenRouter's `models` and `provider`, and the suffix of the model's name. Prices in nano-USD."""

    models: tuple[str, ...] = ()
    """Names to go on with after `model`."""
    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    require_parameters: bool = False
    deny_collection: bool = False
    zdr: bool = False
    sort: str | None = None
    """`price`, `throughput` or `latency`."""
    across_models: bool = False
    """Sort the deployments of all `models` together, not model by model."""
    max_input_nano_per_mtok: int | None = None
    max_output_nano_per_mtok: int | None = None
    max_request_nano: int | None = None
    min_tokens_per_s: float | None = None
    """Slower ones, as far as they were measured, go to the end."""
    max_latency_s: float | None = None
    free: bool = False
    foreign: tuple[Foreign, ...] = ()
    """What no deployment but one at OpenRouter can do."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a call needs of a model. `input_tokens` is an estimate, `output_tokens` what the client asks for at most."""

    operation: str = "chat"
    vision: bool = False
    audio: bool = False
    tools: bool = False
    json_schema: bool = False
    reasoning: bool = False
    """Asked for; it only matters where every parameter must be supported."""
    input_tokens: int = 0
    output_tokens: int | None = None
    parameters: tuple[str, ...] = ()
    """The body's fields."""
    compressible: bool = False
    """The client wants a prompt that is too long to be shortened, so half of its context is enough."""


NO_NEEDS = Needs()
