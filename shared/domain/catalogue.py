"""What can be reached: provider, connection, model, deployment."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from shared.domain.health import PROFILES, Profile, ProfileKind
from shared.domain.money import MTOK, Price
from shared.domain.upstream_limits import UpstreamLimits

API_VERSION = re.compile(r"[A-Za-z0-9.-]{1,64}")


class WireFormat(StrEnum):
    OPENAI_CHAT = "openai-chat"
    OPENAI_RESPONSES = "openai-responses"
    ANTHROPIC_MESSAGES = "anthropic-messages"
    GEMINI = "gemini"
    COHERE = "cohere"
    BEDROCK = "bedrock"
    DEEPGRAM = "deepgram"
    ASSEMBLYAI = "assemblyai"


class Auth(StrEnum):
    """How a credential travels. `bearer`: `Authorization: Bearer …`; the headers are called as they are; `none`: not at all.
    `token`: `Authorization: Token …` (Deepgram); `authorization`: that header with nothing but the credential (AssemblyAI).
    `aws`: signed with SigV4 when it is ACCESS_KEY:SECRET_KEY[:SESSION_TOKEN], else a Bedrock API key as bearer."""

    BEARER = "bearer"
    X_API_KEY = "x-api-key"
    X_GOOG_API_KEY = "x-goog-api-key"
    API_KEY = "api-key"
    AWS = "aws"
    TOKEN = "token"  # noqa: S105
    AUTHORIZATION = "authorization"
    NONE = "none"


class Capability(StrEnum):
    TEXT = "text"
    VISION = "vision"
    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    REASONING = "reasoning"
    AUDIO_INPUT = "audio_input"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    TRANSCRIPTION = "transcription"
    IMAGES = "images"
    """Makes them."""
    MODERATION = "moderation"
    SPEECH = "speech"


class DataPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says it does with prompts. None: it does not say."""

    trains: bool | None = None
    retention_days: int | None = None
    region: str | None = None

    def over(self, other: DataPolicy) -> DataPolicy:
        """This, and what it leaves open as `other` says."""
        return DataPolicy(
            trains=other.trains if self.trains is None else self.trains,
            retention_days=other.retention_days if self.retention_days is None else self.retention_days,
            region=other.region if self.region is None else self.region,
        )


class Quirks(msgspec.Struct, frozen=True, kw_only=True):
    """Deviations of a provider within its wire format, from a closed list: each has a name and a test."""

    drop: tuple[str, ...] = ()
    """Top-level request fields that the provider refuses; removed, and listed in `x-waystation-dropped`."""
    message_drop: tuple[str, ...] = ()
    """Fields of messages that the provider refuses (Groq: name; Perplexity: the detail of images); removed, and listed."""
    no_nulls: bool = False
    """Fields that are null are refused, in the body and in its messages (Groq). A null says nothing, so none is listed."""
    alternating: bool = False
    """Two messages of one role in a row are refused (Perplexity's Sonar API): they become one."""
    citations: bool = False
    """Sources come beside the answer, in `citations` and `search_results` (Perplexity's Sonar API): Chat's clients get them as
    OpenAI's annotations too."""
    rename: dict[str, str] = {}
    """Top-level request fields under another name, e.g. max_completion_tokens → max_tokens."""
    response_format: bool = False
    """A Responses API that takes a schema as Chat does, in `response_format`, and refuses `text` (Perplexity)."""
    stream_usage: bool = True
    """Whether `stream_options.include_usage` may be asked for."""
    usage_in_choice: bool = False
    """Usage arrives inside `choices[0]` of the last chunk (Moonshot)."""
    output_cap_field: str = "max_tokens"
    """What a translated call names its output cap: OpenAI's newer models want max_completion_tokens."""
    reasoning: str = "effort"
    """How a translated call asks for reasoning: `effort` (reasoning_effort), `object` (OpenRouter's), `thinking`
    (`{type: enabled}`: DeepSeek, GLM, Kimi), `enable_thinking` (with thinking_budget: Qwen, SiliconFlow), `none`."""
    replay_reasoning: str = ""
    """The field in which replayed assistant messages carry their reasoning; empty: it is left out."""
    replay_needed: bool = False
    """Assistant messages with tool calls must carry that field (DeepSeek, Kimi in thinking mode): a translated call gets it,
    empty where the client kept nothing."""
    custom_tools: bool = False
    """OpenAI's custom tools are understood; elsewhere they travel as a function with one string."""
    tool_ids: str = ""
    """`nine`: tool call ids are exactly nine letters or digits (Mistral)."""
    forced_tools: tuple[str, ...] = ("required", "named")
    """Which forcing of tools the provider takes."""
    text_only_content: bool = False
    """Message content must be a string (DeepSeek, Kimi's text models)."""
    think_tags: bool = False
    """Reasoning comes inline in <think> tags."""
    most_stops: int = 4
    most_messages: int | None = None
    """More in one call are refused."""
    developer_role: bool = False
    schema_tool: bool = False
    """Models without the capability json_schema refuse schemas: where a call is translated, a tool is forced in their stead."""
    schema_drop: tuple[str, ...] = ()
    """Keys that tools' JSON Schemas must not hold."""
    takes_routing: bool = False
    """OpenRouter's `provider` object is understood; elsewhere it is the gateway's alone and goes no further."""
    forbids_by_model: bool = False
    """A 403 is about the one model (a cloud's access policies), not about the credential: it does not lock the connection."""
    continues: str = ""
    """How a provider is told to go on from the beginning of an answer (wire/seam.py), where it documents that: `turn` (a last
    message of the assistant is one), `prefix`, `partial` (that flag on the message), `continue_final_message` (that field);
    empty: not at all."""
    rewritten: bool = False
    """Whether messages themselves must be rewritten, so that nothing can simply pass. Follows from the others."""
    tidied: bool = False
    """Whether what passes needs tidying (wire/openai_chat/tidy.py). Follows from the others."""

    def __post_init__(self) -> None:
        tidied = bool(self.message_drop or self.no_nulls or self.alternating or "n" in self.drop)
        msgspec.structs.force_setattr(self, "tidied", tidied)
        rewritten = bool(self.tool_ids or self.text_only_content or self.think_tags)
        msgspec.structs.force_setattr(self, "rewritten", rewritten)


class Params(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is dropped from, and set in, every body to a provider; in its own format's names (wire/params.py)."""

    drop: tuple[str, ...] = ()
    set: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return bool(self.drop or self.set)

    def then(self, more: Params) -> Params:
        """Both; where they differ, `more` has the last word."""
        return Params((*self.drop, *(name for name in more.drop if name not in self.drop)), self.set | more.set)


NO_PARAMS = Params()


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a provider. `None` means unknown, which a hard budget refuses."""

    model_id: str
    upstream: str = ""
    """What the provider calls it now, where that is not its id here (Perplexity); empty: the same."""
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[Capability] = frozenset({Capability.TEXT})
    described: bool = False
    """Whether somebody said what it can. If nobody did, what is not among its capabilities is unknown, not absent."""
    quantization: str | None = None
    price: Price | None = None
    params: Params = NO_PARAMS

    @property
    def sent_id(self) -> str:
        """How a call names it to the provider."""
        return self.upstream or self.model_id


class RateHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """Response headers, in lower case, in which a provider says what is left of one of its limits. Empty: it has none such."""

    unit: str
    """What is limited, as the catalogue calls it: requests, tokens, input_tokens …"""
    remaining: str = ""
    reset: str = ""
    limit: str = ""
    refills: bool = False
    """It fills up again bit by bit, and `reset` is when it will be full, not when something is left again."""


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor's API as data (providers/catalogue/*.toml)."""

    name: str
    title: str
    prefix: str
    aliases: tuple[str, ...] = ()
    base_url: str | None
    wire_format: WireFormat = WireFormat.OPENAI_CHAT
    auth: Auth = Auth.BEARER
    endpoints: dict[str, str] = msgspec.field(default_factory=lambda: {"chat": "/chat/completions", "models": "/models"})
    api_version: str = ""
    """What `{api_version}` in a path stands for, unless the connection says otherwise (Azure)."""
    headers: dict[str, str] = {}
    """Sent with every call, e.g. anthropic-version."""
    rate_headers: tuple[RateHeaders, ...] = ()
    quirks: Quirks = Quirks()
    params: Params = NO_PARAMS
    data_policy: DataPolicy = DataPolicy()
    models: dict[str, Model] = {}
    source: str = ""
    verified_on: str = ""

    def policy_at(self, base_url: str) -> DataPolicy:
        """What the vendor says of calls to this URL: of one outside the domain of its own it says nothing, whoever is there."""
        home = _domain(self.base_url or "")
        return self.data_policy if not (home and base_url) or _domain(base_url) == home else DataPolicy()


def _domain(url: str) -> str:
    return ".".join((urlsplit(url).hostname or "").split(".")[-2:])


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One credential (account) at a provider. Its secret stays sealed here; `upstream/credentials.py` opens it.

    With no `models` of its own and none in the catalogue's provider, any model id passes.
    """

    connection_id: str
    name: str
    provider: str
    prefix: str
    base_url: str
    organisation_id: str | None = None
    """None: the installation's, for everybody. Otherwise only that organisation may use it."""
    sealed_credential: bytes | None = None
    credential_version: int = 0
    models: dict[str, Model] = {}
    params: Params = NO_PARAMS
    api_version: str | None = None
    """For providers with an api_version; None: theirs."""
    data_policy: DataPolicy | None = None
    """What this account's contract says, as far as it differs from the provider's own."""
    limits: UpstreamLimits | None = None
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    idle_timeout_s: float = 120.0
    profile: Profile = PROFILES[ProfileKind.API_KEY]
    """When its deployments' breakers open, and for how long."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A model reached through a connection: what one attempt goes to."""

    provider: Provider
    connection: Connection
    model: Model
    params: Params | None = None
    """The provider's, the connection's and the model's together; None where there are none."""
    key: str = ""
    """`connection-id/model-id`: what its health and load are kept under."""
    name: str = ""
    """`prefix/model-id`, as clients, logs and the ledger say it."""
    data_policy: DataPolicy = DataPolicy()
    """The connection's, and what that leaves open the provider's at this base URL."""
    rates: tuple[int, int, int] | None = None
    """What a million input tokens, a million output tokens and a million calls cost, where that is the same for every length of
    prompt."""

    @property
    def schema_by_tool(self) -> bool:
        """Whether a JSON schema can only be had as the input of a tool here (wire/forced.py)."""
        if not self.provider.quirks.schema_tool or not self.model.described:
            return False
        able = self.model.capabilities
        return Capability.JSON_SCHEMA not in able and Capability.TOOLS in able

    def path(self, path: str) -> str:
        """A path of the catalogue with what its braces stand for."""
        if "{" not in path:
            return path
        version = self.connection.api_version or self.provider.api_version
        return path.replace("{model}", quote(self.model.sent_id, safe="")).replace("{api_version}", version)

    def __post_init__(self) -> None:
        params = self.provider.params.then(self.connection.params).then(self.model.params)
        msgspec.structs.force_setattr(self, "params", params or None)
        msgspec.structs.force_setattr(self, "key", f"{self.connection.connection_id}/{self.model.model_id}")
        prefix = self.connection.prefix
        msgspec.structs.force_setattr(self, "name", f"{prefix}/{self.model.model_id}" if prefix else self.model.model_id)
        price = self.model.price
        if price is not None and not price.longer:
            rates = (price.input_nano_per_mtok, price.output_nano_per_mtok, price.request_nano * MTOK)
            msgspec.structs.force_setattr(self, "rates", rates)
        own, general = self.connection.data_policy, self.provider.policy_at(self.connection.base_url)
        msgspec.structs.force_setattr(self, "data_policy", general if own is None else own.over(general))
