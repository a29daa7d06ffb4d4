"""The models that the caller's key can name, in the dialect of whoever asks.

One path has four dialects (`GET /v1/models`): Google's clients send `x-goog-api-key` or `?key=`, Anthropic's send
`anthropic-version`, Codex sends `?client_version=`; everybody else gets OpenAI's list. That one is a superset: it has the keys
that OpenRouter's strict SDKs and Anthropic's read as well.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from services.ingress.endpoint import at_openrouter, credential_of, query_key
from services.ingress.node import Node
from shared.domain.catalogue import Capability, Connection, Deployment, Model, Provider
from shared.domain.money import Price
from shared.domain.refusal import Reason, Refused, refuse
from shared.domain.routing import Route
from shared.flow.accept import authenticate
from shared.routing.eligible import of_provider
from shared.routing.pool import Pool
from shared.snapshot.snapshot import KeyEntry
from shared.wire.envelope import invalid_field

PREFIXES = ("/v1/models/", "/v1beta/models/", "/v1alpha/models/", "/api/v1/models/", "/api/v1/model/")
NO_DATE = "1970-01-01T00:00:00Z"
NANO = 1_000_000_000
MOST_LISTED = 1_000
PER_TOKEN = NANO * 1_000_000
"""A price of nano-USD per million tokens, as USD per token."""


async def every_model(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """The list. Raises Refused."""
    return listed(request, listed_for(reader(request, node), node))


def listed(request: web.BaseRequest, deployments: list[Deployment]) -> web.Response:
    """A list in the dialect of whoever asks."""
    if of_google(request):
        return json({"models": [google(deployment) for deployment in deployments]})
    entries, next_page = page(request, [describe(deployment) for deployment in deployments])
    told: dict[str, Any] = {
        "object": "list",
        "data": entries,
        "has_more": False,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "links": {"next": next_page},
        "total_count": len(deployments),
    }
    if "client_version" in request.query:
        told["models"] = [codex(deployment, at) for at, deployment in enumerate(deployments)]
    return json(told)


def page(request: web.BaseRequest, entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str | None]:
    """OpenRouter's `?offset=&limit=`, and where the next page is. Elsewhere the list is whole. Raises Refused (400)."""
    if not at_openrouter(request) or not {"offset", "limit"} & set(request.query):
        return entries, None
    numbers = {}
    for name, least, usual in (("offset", 0, 0), ("limit", 1, MOST_LISTED)):
        told = request.query.get(name, str(usual))
        if not told.isascii() or not told.isdigit() or len(told) > 9 or int(told) < least:
            raise invalid_field(name, f"Invalid value for {name!r}: expected a whole number from {least}.")
        numbers[name] = int(told)
    first, end = numbers["offset"], numbers["offset"] + min(numbers["limit"], MOST_LISTED)
    more = f"{request.path}?offset={end}&limit={end - first}" if end < len(entries) else None
    return entries[first:end], more


async def one_model(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """One entry of the list, or its endpoints (OpenRouter); the id's slash may come raw or as %2F. Raises Refused."""
    key = reader(request, node)
    name = unquote(next(request.path.removeprefix(prefix) for prefix in PREFIXES if request.path.startswith(prefix)))
    wanted, _, tail = name.rpartition("/")
    name = wanted if tail == "endpoints" else name
    deployment = named(name, key, node)
    if deployment is None:
        raise unknown(name)
    if tail == "endpoints":
        told = describe(deployment)
        architecture = told["architecture"] | {"tokenizer": "Other", "instruct_type": None}
        ends = [endpoint(each, public=key is None) for each in reached(name, key, node)]
        return json({"data": told | {"description": "", "architecture": architecture, "endpoints": ends}})
    return json(google(deployment) if of_google(request) else describe(deployment))


AT_PROVIDER = re.compile(r"/v1/providers/([^/]+)/(?:v1(?:beta|alpha)?/)?models(?:/(.+))?")


async def at_provider(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """`GET /v1/providers/{provider}/models` and `…/models/{model}`: those of one provider. Raises Refused."""
    found = AT_PROVIDER.fullmatch(request.path)
    if found is None:
        raise refuse(Reason.UNKNOWN_URL, 404, f"There is nothing at {request.path[:200]!r}.", retry=False)
    key, provider, name = caller(request, node), found[1], found[2]
    if name is None:
        return listed(request, [each for each in listed_for(key, node) if of_provider(each, provider)])
    name = unquote(name)
    for asked in (name, f"{provider}/{name}"):
        deployment = named(asked, key, node)
        if deployment is not None and of_provider(deployment, provider):
            return json(google(deployment) if of_google(request) else describe(deployment))
    raise unknown(name)


def listed_for(key: KeyEntry | None, node: Node) -> list[Deployment]:
    """The routes and the models that the key may use; without a key, the models that every organisation may."""
    snapshot = node.gateway.snapshot()
    if key is None:
        return snapshot.models(NOBODYS)
    routes = [as_model(route, pool) for route, pool in snapshot.routes(key)]
    return routes + snapshot.models(key.principal.organisation_id, key.policy)


def named(name: str, key: KeyEntry | None, node: Node) -> Deployment | None:
    if key is None:
        return next(iter(node.gateway.snapshot().plan(name, NOBODYS)), None)
    pool = node.gateway.snapshot().pool_for(name, key)
    if pool is None or not pool.sections[0].groups:
        return None
    return pool.members[0] if pool.route is None else as_model(pool.route, pool)


def reached(name: str, key: KeyEntry | None, node: Node) -> tuple[Deployment, ...]:
    """All that the name leads to, but for fallbacks."""
    snapshot = node.gateway.snapshot()
    pool = snapshot.pool(name, NOBODYS) if key is None else snapshot.pool_for(name, key)
    return () if pool is None else tuple(each for group in pool.sections[0].groups for each in group.members)


ROUTER = Provider(name="waystation", title="Waystation", prefix="", base_url=None)


def as_model(route: Route, pool: Pool) -> Deployment:
    """A route as one model: it can do what any of its targets can, and costs what the dearest does."""
    models = [group.members[0].model for group in pool.sections[0].groups]
    prices = [model.price for model in models if model.price is not None]
    price = None
    if prices and len(prices) == len(models):
        price = Price(
            input_nano_per_mtok=max(each.input_nano_per_mtok for each in prices),
            output_nano_per_mtok=max(each.output_nano_per_mtok for each in prices),
        )
    model = Model(
        model_id=route.name,
        context_tokens=max((model.context_tokens or 0 for model in models), default=0) or None,
        max_output_tokens=max((model.max_output_tokens or 0 for model in models), default=0) or None,
        capabilities=frozenset(each for model in models for each in model.capabilities),
        price=price,
    )
    connection = Connection(connection_id="", name=route.name, provider=ROUTER.name, prefix="", base_url="")
    return Deployment(provider=ROUTER, connection=connection, model=model)


def unknown(name: str) -> Refused:
    return refuse(
        Reason.UNKNOWN_MODEL, 404, f"There is no model {name[:200]!r} here. GET /v1/models lists yours.",
        field="model", retry=False,
    )  # fmt: skip


async def catalogue(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """`GET /api/models/catalog`: the models by provider, each with its type."""
    key = caller(request, node)
    grouped: dict[str, dict[str, Any]] = {}
    for deployment in listed_for(key, node):
        provider = deployment.provider
        group = grouped.setdefault(provider.name, {"provider": provider.name, "title": provider.title, "models": []})
        group["models"].append(describe(deployment) | {"type": kind_of(deployment)})
    return json({"object": "list", "data": list(grouped.values())})


def caller(request: web.BaseRequest, node: Node) -> KeyEntry:
    headers = request.headers
    credential = credential_of(headers.get("Authorization"), headers, query_key(request))
    return authenticate(node.gateway, node.gateway.snapshot(), credential)


NOBODYS = ""
"""No organisation's id: it sees what belongs to none."""


def reader(request: web.BaseRequest, node: Node) -> KeyEntry | None:
    """Whose models are told. OpenRouter's lists are public and its clients may ask without a key: None is for them, if
    `WAYSTATION_PUBLIC_MODELS` allows it. Raises Refused."""
    headers = request.headers
    credential = credential_of(headers.get("Authorization"), headers, query_key(request))
    if not credential and node.gateway.settings.public_models and at_openrouter(request):
        return None
    return authenticate(node.gateway, node.gateway.snapshot(), credential)


def of_google(request: web.BaseRequest) -> bool:
    return "x-goog-api-key" in request.headers or "key" in request.query or request.path.startswith(("/v1beta/", "/v1alpha/"))


KINDS = {
    Capability.EMBEDDINGS: "embedding", Capability.RERANK: "rerank", Capability.TRANSCRIPTION: "transcription",
    Capability.IMAGES: "image", Capability.MODERATION: "moderation", Capability.SPEECH: "speech",
}  # fmt: skip


def kind_of(deployment: Deployment) -> str:
    return next((kind for capability, kind in KINDS.items() if capability in deployment.model.capabilities), "chat")


def describe(deployment: Deployment) -> dict[str, Any]:
    """One model for OpenAI's, Anthropic's and OpenRouter's clients at once."""
    model = deployment.model
    name = deployment.name
    inputs = ["text"]
    if Capability.VISION in model.capabilities:
        inputs.append("image")
    if Capability.AUDIO_INPUT in model.capabilities:
        inputs.append("audio")
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": 0,
        "created_at": NO_DATE,
        "owned_by": deployment.provider.name,
        "display_name": name,
        "name": name,
        "canonical_slug": name,
        "context_length": model.context_tokens or 0,
        "max_output_tokens": model.max_output_tokens,
        "architecture": {
            "input_modalities": inputs,
            "output_modalities": ["text"],
            "modality": f"{'+'.join(inputs)}->text",
        },
        "pricing": pricing(deployment),
        "top_provider": {
            "is_moderated": False,
            "context_length": model.context_tokens,
            "max_completion_tokens": model.max_output_tokens,
        },
        "per_request_limits": None,
        "supported_parameters": parameters(deployment),
        "default_parameters": None,
        "supported_voices": None,
        "links": {"details": f"/api/v1/models/{name}/endpoints"},
    }


def pricing(deployment: Deployment) -> dict[str, str]:
    """USD per token, as text. An unknown price is told as -1, OpenRouter's way of saying that it varies."""
    price = deployment.model.price
    if price is None:
        return {"prompt": "-1", "completion": "-1"}
    told = {"prompt": usd(price.input_nano_per_mtok), "completion": usd(price.output_nano_per_mtok)}
    if price.cache_read_nano_per_mtok is not None:
        told["input_cache_read"] = usd(price.cache_read_nano_per_mtok)
    if price.cache_write_nano_per_mtok is not None:
        told["input_cache_write"] = usd(price.cache_write_nano_per_mtok)
    if price.cache_write_1h_nano_per_mtok is not None:
        told["input_cache_write_1h"] = usd(price.cache_write_1h_nano_per_mtok)
    if price.audio_nano_per_mtok is not None:
        told["audio"] = usd(price.audio_nano_per_mtok)
    return told


def usd(nano_per_mtok: int) -> str:
    return f"{nano_per_mtok // PER_TOKEN}.{nano_per_mtok % PER_TOKEN:015d}".rstrip("0").rstrip(".")


def parameters(deployment: Deployment) -> list[str]:
    """OpenRouter's names of what the model takes."""
    capabilities = deployment.model.capabilities
    names = ["max_tokens", "temperature", "top_p", "stop", "seed"]
    if Capability.TOOLS in capabilities:
        names += ["tools", "tool_choice", "parallel_tool_calls"]
    if Capability.JSON_SCHEMA in capabilities:
        names += ["response_format", "structured_outputs"]
    if Capability.REASONING in capabilities:
        names += ["reasoning", "include_reasoning", "reasoning_effort"]
    return names


def endpoint(deployment: Deployment, *, public: bool) -> dict[str, Any]:
    """OpenRouter's entry of one endpoint. Its tag is a slug for the preferences of a call (`provider.order` …); what accounts
    there are is not for everybody."""
    model, provider = deployment.model, deployment.provider
    return {
        "name": f"{provider.title} | {deployment.name}",
        "model_id": deployment.name,
        "model_name": deployment.name,
        "context_length": model.context_tokens or 0,
        "pricing": pricing(deployment),
        "provider_name": provider.title,
        "tag": provider.name if public else f"{provider.name}/{deployment.connection.name}",
        "quantization": model.quantization,
        "max_completion_tokens": model.max_output_tokens,
        "max_prompt_tokens": None,
        "supported_parameters": parameters(deployment),
        "supports_implicit_caching": False,
        "supports_tool_choice": dict.fromkeys(("auto", "function", "none", "required"), Capability.TOOLS in model.capabilities),
        "supports_voice_cloning": False,
        "status": 0,
        "uptime_last_5m": None,
        "uptime_last_30m": None,
        "uptime_last_1d": None,
        "latency_last_30m": None,
        "throughput_last_30m": None,
    }


def google(deployment: Deployment) -> dict[str, Any]:
    model = deployment.model
    methods = (
        ["embedContent"] if kind_of(deployment) == "embedding" else ["generateContent", "streamGenerateContent", "countTokens"]
    )
    entry: dict[str, Any] = {
        "name": f"models/{deployment.name}",
        "displayName": deployment.name,
        "supportedGenerationMethods": methods,
    }
    if model.context_tokens is not None:
        entry["inputTokenLimit"] = model.context_tokens
    if model.max_output_tokens is not None:
        entry["outputTokenLimit"] = model.max_output_tokens
    return entry


def codex(deployment: Deployment, priority: int) -> dict[str, Any]:
    """What Codex wants to know of a model that it does not know: plain function tools, no grammars, no hosted ones."""
    reasons = Capability.REASONING in deployment.model.capabilities
    levels = [{"effort": effort, "description": effort} for effort in ("low", "medium", "high")] if reasons else []
    return {
        "slug": deployment.name,
        "display_name": deployment.name,
        "description": f"{deployment.model.model_id} at {deployment.provider.title}",
        "default_reasoning_level": "medium" if reasons else None,
        "supported_reasoning_levels": levels,
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "availability_nux": None,
        "upgrade": None,
        "base_instructions": "You are a coding agent that works in the user's terminal.",
        "default_reasoning_summary": "none",
        "supports_reasoning_summaries": False,
        "support_verbosity": False,
        "default_verbosity": None,
        "apply_patch_tool_type": None,
        "web_search_tool_type": "text",
        "truncation_policy": {"mode": "tokens", "limit": 10_000},
        "supports_parallel_tool_calls": True,
        "context_window": deployment.model.context_tokens or 128_000,
        "experimental_supported_tools": [],
        "input_modalities": ["text", "image"] if Capability.VISION in deployment.model.capabilities else ["text"],
    }


def json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
