"""The shipped catalogue: what `prefix/model` reaches, and no figure without a source."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from services.ingress.node import SIMULATED
from services.simulator.behaviour import MODELS, parse_behaviour
from services.simulator.call import CONTEXT_TOKENS, MAX_OUTPUT_TOKENS
from shared.domain.catalogue import Auth, Capability, Connection, DataPolicy, Deployment, Model, Params, Provider, WireFormat
from shared.domain.money import cost_nano_usd
from shared.domain.usage import Usage
from shared.providers.registry import CATALOGUE, load

BASE_URLS = {
    "anthropic": "https://api.anthropic.com/v1",
    "assemblyai": "https://api.assemblyai.com/v2",
    "azure": None,
    "azure-deployments": None,
    "deepgram": "https://api.deepgram.com/v1",
    "cohere": "https://api.cohere.com/v2",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "glm": "https://api.z.ai/api/paas/v4",
    "minimax": "https://api.minimax.io/v1",
    "perplexity": "https://api.perplexity.ai/v1",
    "qwen-api": "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    "scaleway": "https://api.scaleway.ai/v1",
    "vertex": None,
    "cerebras": "https://api.cerebras.ai/v1",
    "custom": None,
    "custom-gemini": None,
    "custom-messages": None,
    "custom-responses": None,
    "openai-responses": "https://api.openai.com/v1",
    "deepseek": "https://api.deepseek.com",
    "demo": None,
    "fireworks": "https://api.fireworks.ai/inference/v1",
    "groq": "https://api.groq.com/openai/v1",
    "kimi": "https://api.moonshot.ai/v1",
    "kimi-code": "https://api.kimi.com/coding/v1",
    "mistral": "https://api.mistral.ai/v1",
    "nvidia": "https://integrate.api.nvidia.com/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "siliconflow": "https://api.siliconflow.com/v1",
    "together": "https://api.together.xyz/v1",
    "vllm": "http://127.0.0.1:8000/v1",
    "xai": "https://api.x.ai/v1",
}
GEMINI_PATHS = {
    "chat": "/models/{model}:generateContent",
    "chat_stream": "/models/{model}:streamGenerateContent?alt=sse",
}
OTHER_FORMATS: dict[str, tuple[WireFormat, Auth, dict[str, str]]] = {
    "assemblyai": (WireFormat.ASSEMBLYAI, Auth.AUTHORIZATION, {"transcriptions": "/upload"}),
    "custom-gemini": (
        WireFormat.GEMINI,
        Auth.X_GOOG_API_KEY,
        GEMINI_PATHS | {"models": "/models", "embeddings": "/models/{model}:batchEmbedContents"},
    ),
    "custom-messages": (
        WireFormat.ANTHROPIC_MESSAGES,
        Auth.X_API_KEY,
        {"chat": "/messages", "count_tokens": "/messages/count_tokens", "models": "/models"},
    ),
    "custom-responses": (WireFormat.OPENAI_RESPONSES, Auth.BEARER, {"chat": "/responses", "models": "/models"}),
    "openai-responses": (WireFormat.OPENAI_RESPONSES, Auth.BEARER, {"chat": "/responses", "models": "/models"}),
    "perplexity": (WireFormat.OPENAI_RESPONSES, Auth.BEARER, {"chat": "/responses", "models": "/models"}),
    "deepgram": (WireFormat.DEEPGRAM, Auth.TOKEN, {"transcriptions": "/listen"}),
    "anthropic": (
        WireFormat.ANTHROPIC_MESSAGES,
        Auth.X_API_KEY,
        {"chat": "/messages", "count_tokens": "/messages/count_tokens", "models": "/models"},
    ),
    "bedrock": (
        WireFormat.BEDROCK,
        Auth.AWS,
        {"chat": "/model/{model}/converse", "chat_stream": "/model/{model}/converse-stream"},
    ),
    "cohere": (WireFormat.COHERE, Auth.BEARER, {"chat": "/chat", "embeddings": "/embed", "rerank": "/rerank"}),
    "gemini": (
        WireFormat.GEMINI,
        Auth.X_GOOG_API_KEY,
        GEMINI_PATHS | {"models": "/models", "embeddings": "/models/{model}:batchEmbedContents"},
    ),
    "vertex": (WireFormat.GEMINI, Auth.BEARER, GEMINI_PATHS),
}
QUIRKS: dict[str, dict[str, object]] = {
    "anthropic": {"most_messages": 100_000, "continues": "turn"},
    "azure-deployments": {"drop": ("top_k",), "output_cap_field": "max_completion_tokens", "forbids_by_model": True},
    "azure": {
        "drop": ("top_k",),
        "output_cap_field": "max_completion_tokens",
        "custom_tools": True,
        "forbids_by_model": True,
    },
    "bedrock": {"forbids_by_model": True},
    "cerebras": {"forced_tools": ("required",)},
    "deepseek": {"reasoning": "thinking", "replay_reasoning": "reasoning_content", "replay_needed": True},
    "fireworks": {"forced_tools": ("any", "named")},
    "groq": {
        "drop": ("logit_bias", "logprobs", "n", "prompt_cache_key", "store", "top_k", "top_logprobs", "verbosity"),
        "message_drop": ("annotations", "cache_control", "name", "reasoning_content", "reasoning_details"),
        "no_nulls": True,
    },
    "perplexity": {"message_drop": ("detail",), "response_format": True, "alternating": False, "citations": False},
    "glm": {"reasoning": "thinking", "replay_reasoning": "reasoning_content", "forced_tools": (), "most_stops": 1},
    "kimi": {"reasoning": "thinking", "replay_needed": True, "forced_tools": ("named",)},
    "minimax": {"reasoning": "none", "output_cap_field": "max_completion_tokens"},
    "mistral": {"tool_ids": "nine", "forced_tools": ("any", "named")},
    "nvidia": {"reasoning": "none"},
    "openai": {
        "drop": ("top_k",),
        "output_cap_field": "max_completion_tokens",
        "custom_tools": True,
        "developer_role": True,
    },
    "openrouter": {"reasoning": "object", "replay_reasoning": "reasoning_details"},
    "qwen-api": {"reasoning": "enable_thinking", "output_cap_field": "max_completion_tokens"},
    "siliconflow": {"reasoning": "enable_thinking"},
    "vertex": {"forbids_by_model": True},
    "xai": {"schema_drop": ("strict",), "drop": ("web_search_options",)},
}
USD = 1_000_000_000
BESIDE_CHAT = ("embed", "rerank", "listen", "listen-tokens", "best", "image", "moderate", "speak")


@pytest.fixture(scope="module")
def catalogue() -> dict[str, Provider]:
    """Without the simulator's other formats."""
    return {name: provider for name, provider in load().items() if not name.startswith("demo-")}


@pytest.fixture(scope="module")
def rehearsed() -> dict[str, Provider]:
    return {name: provider for name, provider in load().items() if name.startswith("demo")}


def test_every_provider_is_where_its_documentation_says(catalogue: dict[str, Provider]) -> None:
    assert {name: catalogue[name].base_url for name in BASE_URLS} == BASE_URLS


def test_a_provider_is_reached_by_its_own_name(catalogue: dict[str, Provider]) -> None:
    assert {name: catalogue[name].prefix for name in BASE_URLS} == {name: name for name in BASE_URLS}
    assert catalogue["deepseek"].aliases == ("ds",)
    assert catalogue["perplexity"].aliases == ("pplx",)


def test_all_but_these_speak_openais_format(catalogue: dict[str, Provider]) -> None:
    others = {
        provider.name: (provider.wire_format, provider.auth, provider.endpoints)
        for provider in catalogue.values()
        if provider.wire_format is not WireFormat.OPENAI_CHAT
    }
    assert others == OTHER_FORMATS


def test_a_format_that_has_no_model_in_its_body_has_it_in_every_path_of_a_call(catalogue: dict[str, Provider]) -> None:
    in_path = {
        (provider.wire_format, "{model}" in path)
        for provider in catalogue.values()
        for endpoint, path in provider.endpoints.items()
        if endpoint in ("chat", "chat_stream") and provider.name != "azure-deployments"
    }
    assert "/deployments/{model}/" in catalogue["azure-deployments"].endpoints["chat"]
    in_url = {WireFormat.GEMINI, WireFormat.BEDROCK}
    chat = [provider for provider in catalogue.values() if "chat" in provider.endpoints]
    assert in_path == {(provider.wire_format, provider.wire_format in in_url) for provider in chat}


def test_anthropic_is_told_a_version_that_takes_temperature(catalogue: dict[str, Provider]) -> None:
    assert {name: provider.headers for name, provider in catalogue.items() if provider.headers} == {
        "anthropic": {"anthropic-version": "2023-06-01"},
        "custom-messages": {"anthropic-version": "2023-06-01"},
    }


@pytest.mark.parametrize("name", sorted(QUIRKS))
def test_calls_are_translated_into_the_providers_own_dialect(catalogue: dict[str, Provider], name: str) -> None:
    quirks = catalogue[name].quirks
    assert {field: getattr(quirks, field) for field in QUIRKS[name]} == QUIRKS[name]


def test_policies_are_those_that_providers_publish(catalogue: dict[str, Provider]) -> None:
    policies = {name: provider.data_policy for name, provider in catalogue.items() if provider.data_policy != DataPolicy()}
    assert policies == {
        "anthropic": DataPolicy(trains=False, retention_days=30),
        "assemblyai": DataPolicy(trains=True),
        "azure": DataPolicy(trains=False),
        "azure-deployments": DataPolicy(trains=False),
        "bedrock": DataPolicy(trains=False, retention_days=30),
        "cerebras": DataPolicy(retention_days=0),
        "cohere": DataPolicy(trains=True, retention_days=30),
        "deepgram": DataPolicy(trains=True),
        "demo": DataPolicy(trains=False, retention_days=0),
        "fireworks": DataPolicy(trains=False, retention_days=0),
        "gemini": DataPolicy(retention_days=55),
        "glm": DataPolicy(retention_days=0),
        "groq": DataPolicy(retention_days=30),
        "mistral": DataPolicy(retention_days=30),
        "nvidia": DataPolicy(trains=True),
        "openai": DataPolicy(trains=False, retention_days=30),
        "openai-responses": DataPolicy(trains=False, retention_days=30),
        "qwen-api": DataPolicy(trains=False, retention_days=0),
        "scaleway": DataPolicy(region="eu"),
        "together": DataPolicy(trains=False),
        "vertex": DataPolicy(trains=False),
        "xai": DataPolicy(trains=False, retention_days=30),
    }


def test_perplexitys_older_names_are_its_one_model_that_searches(catalogue: dict[str, Provider]) -> None:
    models = catalogue["perplexity"].models
    assert {model.model_id: model.sent_id for model in models.values()} == dict.fromkeys(models, "perplexity/sonar")
    search = {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}
    assert {name: model.params.set for name, model in models.items()} == {
        "perplexity/sonar": {},
        "sonar": search,
        "sonar-pro": search,
        "sonar-reasoning-pro": {"effort": "low"},
        "sonar-deep-research": {"effort": "medium"},
    }
    assert catalogue["perplexity"].params == Params(drop=("reasoning.summary",))


def test_only_mistral_has_calls_of_its_own_format_rewritten(catalogue: dict[str, Provider]) -> None:
    assert [provider.name for provider in catalogue.values() if provider.quirks.rewritten] == ["mistral"]


def test_a_cap_is_nowhere_written_under_a_name_that_is_dropped_or_renamed(catalogue: dict[str, Provider]) -> None:
    lost = [
        provider.name
        for provider in catalogue.values()
        if provider.quirks.output_cap_field in (*provider.quirks.drop, *provider.quirks.rename)
    ]
    assert lost == []


@pytest.mark.parametrize("name", ["azure", "deepgram", "perplexity", "scaleway"])
def test_where_no_price_per_token_is_the_whole_truth_there_is_none(catalogue: dict[str, Provider], name: str) -> None:
    assert [model.model_id for model in catalogue[name].models.values() if model.price is not None] == []


@pytest.mark.parametrize(
    ("name", "model_id", "usage", "nano_usd"),
    [
        ("gemini", "gemini-2.5-pro", Usage(input_tokens=200_000, output_tokens=1000), 260_000_000),
        ("gemini", "gemini-2.5-pro", Usage(input_tokens=200_001, output_tokens=1000), 515_002_500),
        ("gemini", "gemini-2.5-flash", Usage(input_tokens=1000, output_tokens=100, audio_input_tokens=400), 830_000),
        ("minimax", "MiniMax-M3", Usage(input_tokens=600_000, cache_read_tokens=100_000), 312_000_000),
        ("openai", "gpt-5.5", Usage(input_tokens=272_001), 2_720_010_000),
        ("openai", "gpt-6.2-sol", Usage(input_tokens=272_001, cache_read_tokens=272_001, output_tokens=1000), 69_400_200),
        ("openai-responses", "gpt-6-luna", Usage(input_tokens=1000, cache_write_tokens=1000, output_tokens=1000), 625_000),
        ("anthropic", "claude-haiku-5-5", Usage(input_tokens=100_000, output_tokens=1000), 10_500_000),
        ("anthropic", "claude-haiku-5-5", Usage(input_tokens=100_001, output_tokens=1000), 52_500_500),
        ("xai", "grok-4.6", Usage(input_tokens=199_999), 399_998_000),
        ("xai", "grok-4.6", Usage(input_tokens=200_000), 800_000_000),
        ("qwen-api", "qwen3-max", Usage(input_tokens=32_000, output_tokens=1000), 44_400_000),
        ("qwen-api", "qwen3-max", Usage(input_tokens=32_001, output_tokens=1000), 88_802_400),
        ("qwen-api", "qwen3-max", Usage(input_tokens=128_001, cache_write_tokens=128_001), 480_003_750),
        ("qwen-api", "qwen3.7-plus", Usage(input_tokens=256_001, output_tokens=1000), 312_001_200),
        ("vertex", "gemini-2.5-pro", Usage(input_tokens=200_001, output_tokens=1000), 515_002_500),
        ("xai", "grok-4.3", Usage(input_tokens=1000, output_tokens=1000), 3_750_000),
        ("groq", "whisper-large-v3", Usage(audio_ms=60_000), 1_850_000),
        ("groq", "whisper-large-v3", Usage(audio_ms=1), 308_334),
    ],
)
def test_a_price_rises_with_the_prompts_length_and_sound_has_its_own(
    catalogue: dict[str, Provider], name: str, model_id: str, usage: Usage, nano_usd: int
) -> None:
    price = catalogue[name].models[model_id].price
    assert price is not None
    assert cost_nano_usd(usage, price) == nano_usd


def test_writing_to_anthropics_cache_is_booked_dearer_than_input(catalogue: dict[str, Provider]) -> None:
    prices = [model.price for model in catalogue["anthropic"].models.values() if model.price is not None]
    assert prices
    assert all(price.cache_write_nano_per_mtok == price.input_nano_per_mtok * 5 // 4 for price in prices)
    assert all(price.cache_write_1h_nano_per_mtok == price.input_nano_per_mtok * 2 for price in prices)


def moment(day: int, clock: str, month: int = 11, year: int = 2026) -> float:
    hours, minutes = map(int, clock.split(":"))
    return datetime(year, month, day, hours, minutes, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("name", "model_id", "moment_s", "nano_usd"),
    [
        ("deepseek", "deepseek-v4-pro", moment(20, "00:59"), 660_000),  # a Friday
        ("deepseek", "deepseek-v4-pro", moment(20, "01:00"), 1_320_000),
        ("deepseek", "deepseek-v4-pro", moment(20, "09:59"), 1_320_000),
        ("deepseek", "deepseek-v4-pro", moment(20, "10:00"), 660_000),
        ("deepseek", "deepseek-v4-pro", moment(21, "01:00"), 660_000),
        ("deepseek", "deepseek-flash", moment(22, "23:59"), 150_000),
        ("gemini", "gemini-3.8-flash", moment(31, "23:59", 12), 750_000),
        ("gemini", "gemini-3.8-flash", moment(1, "00:00", 1, 2027), 1_500_000),
    ],
)
def test_a_price_depends_on_the_time_where_the_vendors_does(
    catalogue: dict[str, Provider], name: str, model_id: str, moment_s: float, nano_usd: int
) -> None:
    price = catalogue[name].models[model_id].price
    assert price is not None
    assert cost_nano_usd(Usage(input_tokens=1000), price.during(moment_s, moment_s)) == nano_usd


def test_off_peak_is_half_of_everything(catalogue: dict[str, Provider]) -> None:
    prices = [model.price for model in catalogue["deepseek"].models.values()]
    usage = Usage(input_tokens=10**6, cache_read_tokens=10**5, output_tokens=10**5)
    assert len(prices) == 3
    for price in prices:
        assert price is not None
        assert price.cheaper is not None
        assert cost_nano_usd(usage, price.cheaper) * 2 == cost_nano_usd(usage, price)


def test_openais_models_cost_the_same_by_either_api(catalogue: dict[str, Provider]) -> None:
    chat, responses = catalogue["openai"].models, catalogue["openai-responses"].models
    assert len(responses) == 10
    for model_id, model in responses.items():
        other = chat[model_id]
        assert (model.price, model.context_tokens, model.max_output_tokens) == (
            other.price, other.context_tokens, other.max_output_tokens,
        )  # fmt: skip
        assert model.capabilities - other.capabilities == {Capability.TOOLS}


@pytest.mark.parametrize(
    ("name", "model_ids"),
    [
        ("qwen-api", {"qwen3.7-max", "qwen3.7-plus", "qwen3-max", "qwen3-coder-plus", "qwen-flash"}),
        ("vertex", {"gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite"}),
    ],
)
def test_priced_is_only_what_costs_the_same_with_thoughts_and_everywhere(
    catalogue: dict[str, Provider], name: str, model_ids: set[str]
) -> None:
    assert {model.model_id for model in catalogue[name].models.values() if model.price is not None} == model_ids


def test_alibabas_cache_costs_a_share_of_the_input_at_every_length(catalogue: dict[str, Provider]) -> None:
    prices = [model.price for model in catalogue["qwen-api"].models.values() if model.price is not None]
    tiers = [price.at(above + 1) for price in prices for above in (0, *(tier.above_tokens for tier in price.longer))]
    assert len(tiers) == 12
    assert all(tier.cache_read_nano_per_mtok == tier.input_nano_per_mtok // 5 for tier in tiers)
    written = [(tier.cache_write_nano_per_mtok or 0) / tier.input_nano_per_mtok for tier in tiers]
    assert written == pytest.approx([1.25] * 12, rel=0.01)  # lists round qwen-flash's


def test_mistrals_cached_tokens_cost_a_tenth(catalogue: dict[str, Provider]) -> None:
    chat = [model for model in catalogue["mistral"].models.values() if Capability.EMBEDDINGS not in model.capabilities]
    prices = [model.price for model in chat if model.price is not None]
    assert prices
    assert all(price.cache_read_nano_per_mtok == price.input_nano_per_mtok // 10 for price in prices)


@pytest.mark.parametrize("name", ["qwen-api", "siliconflow"])
def test_a_maximum_that_leaves_thoughts_out_is_none(catalogue: dict[str, Provider], name: str) -> None:
    thinking = [model for model in catalogue[name].models.values() if "reasoning" in model.capabilities]
    assert {model.max_output_tokens for model in thinking} == {None}


def test_only_the_simulator_takes_no_credential(catalogue: dict[str, Provider]) -> None:
    assert [provider.name for provider in catalogue.values() if provider.auth is Auth.NONE] == ["demo"]


def test_every_figure_has_a_source_and_a_date(catalogue: dict[str, Provider]) -> None:
    undated = [name for name, provider in catalogue.items() if provider.models and not provider.verified_on]
    unsourced = [name for name, provider in catalogue.items() if provider.models and not provider.source]
    assert (undated, unsourced) == ([], [])


def test_prices_are_of_the_order_that_prices_are(catalogue: dict[str, Provider]) -> None:
    """A slip of the decimal point by 1000 (per token, per thousand) would fall out of these bounds."""
    odd = [
        f"{provider.prefix}/{model.model_id}"
        for provider in catalogue.values()
        for model in provider.models.values()
        if (price := model.price) is not None
        and Capability.EMBEDDINGS not in model.capabilities
        and not (0.0001 * USD <= price.minute_nano <= 0.1 * USD)
        and not (
            0.01 * USD <= price.input_nano_per_mtok <= 200 * USD
            and price.input_nano_per_mtok <= price.output_nano_per_mtok <= 700 * USD
            and (price.cache_read_nano_per_mtok or 0) <= price.input_nano_per_mtok
        )
    ]
    assert odd == []


def test_embeddings_cost_what_goes_in_and_are_bounded(catalogue: dict[str, Provider]) -> None:
    """No output is billed; a maximum of one token lets a hard budget bound the call."""
    priced = {
        f"{provider.prefix}/{model.model_id}": (model.price.input_nano_per_mtok / USD, model.max_output_tokens)
        for provider in catalogue.values()
        for model in provider.models.values()
        if Capability.EMBEDDINGS in model.capabilities and model.price is not None and model.price.output_nano_per_mtok == 0
    }
    assert priced == {
        "gemini/gemini-embedding-001": (0.15, 1),
        "mistral/mistral-embed": (0.10, 1),
        "openai/text-embedding-3-large": (0.13, 1),
        "openai/text-embedding-3-small": (0.02, 1),
    }


def test_transcription_by_the_minute_costs_what_the_lists_say_per_hour(catalogue: dict[str, Provider]) -> None:
    hourly = {
        f"{provider.prefix}/{model.model_id}": round(model.price.minute_nano * 60 / USD, 6)
        for provider in catalogue.values()
        for model in provider.models.values()
        if provider.name != "demo" and model.price is not None and model.price.minute_nano
    }
    assert hourly == {
        "assemblyai/universal-2": 0.15,
        "assemblyai/universal-3-5-pro": 0.21,
        "groq/whisper-large-v3": 0.111,
        "groq/whisper-large-v3-turbo": 0.04,
        "openai/whisper-1": 0.36,
    }


@pytest.mark.parametrize("name", ["assemblyai", "deepgram"])
def test_who_only_transcribes_lists_nothing_else(catalogue: dict[str, Provider], name: str) -> None:
    assert {model.capabilities for model in catalogue[name].models.values()} == {frozenset({Capability.TRANSCRIPTION})}


def test_an_output_is_never_longer_than_its_context(catalogue: dict[str, Provider]) -> None:
    odd = [
        f"{provider.prefix}/{model.model_id}"
        for provider in catalogue.values()
        for model in provider.models.values()
        if (model.max_output_tokens or 0) > (model.context_tokens or 10**9)
    ]
    assert odd == []


@pytest.mark.parametrize(
    "name", ["azure", "azure-deployments", "custom", "kimi-code", "nvidia", "ollama", "openrouter", "vllm"]
)
def test_where_models_are_not_ours_to_know_none_are_listed(catalogue: dict[str, Provider], name: str) -> None:
    assert catalogue[name].models == {}


@pytest.mark.parametrize(
    "name", ["deepseek", "fireworks", "glm", "kimi", "kimi-code", "mistral", "nvidia", "ollama", "siliconflow", "together"]
)
def test_a_cap_arrives_under_the_name_that_the_provider_obeys(catalogue: dict[str, Provider], name: str) -> None:
    assert catalogue[name].quirks.rename["max_completion_tokens"] == "max_tokens"


def test_mistral_is_spared_what_it_refuses(catalogue: dict[str, Provider]) -> None:
    quirks = catalogue["mistral"].quirks
    assert quirks.rename["seed"] == "random_seed"
    assert {"user", "store", "logit_bias", "stream_options", "top_k"} <= set(quirks.drop)
    assert not quirks.stream_usage


def test_usage_may_only_be_asked_for_where_stream_options_are_not_dropped(catalogue: dict[str, Provider]) -> None:
    contradicting = [
        provider.name
        for provider in catalogue.values()
        if provider.quirks.stream_usage and "stream_options" in provider.quirks.drop
    ]
    assert contradicting == []


def test_every_wire_format_can_be_rehearsed(rehearsed: dict[str, Provider]) -> None:
    assert {provider.wire_format for provider in rehearsed.values()} == set(WireFormat)
    assert set(rehearsed) == set(SIMULATED)


def test_every_demo_model_is_one_the_simulator_knows(rehearsed: dict[str, Provider]) -> None:
    for provider in rehearsed.values():
        chat = [model_id.removeprefix("anthropic.") for model_id in provider.models if model_id not in BESIDE_CHAT]
        assert [model_id for model_id in chat if parse_behaviour(model_id) is None] == []
    assert set(MODELS) <= set(rehearsed["demo"].models)


def test_demo_models_are_bounded_and_priced_so_that_budgets_can_be_tried(rehearsed: dict[str, Provider]) -> None:
    everything = [model for provider in rehearsed.values() for model in provider.models.values()]
    assert all(model.price is not None for model in everything)
    by_tokens = [model for model in everything if model.price is not None and not model.price.by_length_alone]
    assert {model.max_output_tokens for model in by_tokens} == {MAX_OUTPUT_TOKENS}
    demo = rehearsed["demo"].models
    assert {demo[model_id].context_tokens for model_id in MODELS} == {CONTEXT_TOKENS}


def test_the_catalogue_holds_one_file_for_each_provider(catalogue: dict[str, Provider], rehearsed: dict[str, Provider]) -> None:
    assert sorted(path.stem for path in CATALOGUE.glob("*.toml")) == sorted({*catalogue, *rehearsed})
    assert set(BASE_URLS) <= set(catalogue)


@pytest.mark.parametrize(
    ("provider", "base_url", "known"),
    [
        ("openai", "https://api.openai.com/v1", True),
        ("openai", "https://eu.api.openai.com/v1", True),
        ("openai", "https://openai.com.example.net/v1", False),
        ("openai", "https://proxy.example.net/v1", False),
        ("openai", "http://127.0.0.1:9000/v1", False),
        ("qwen-api", "https://dashscope.aliyuncs.com/compatible-mode/v1", True),
        ("azure", "https://mine.openai.azure.com/openai/v1", True),
        ("demo", "http://127.0.0.1:20127/v1", True),
    ],
)
def test_a_policy_holds_in_the_vendors_own_domain(
    catalogue: dict[str, Provider], provider: str, base_url: str, known: bool
) -> None:
    """Where a provider has no URL of its own, every connection names it."""
    vendor, model = catalogue[provider], Model(model_id="m")
    connection = Connection(connection_id="c", name="c", provider=provider, prefix="c", base_url=base_url)
    deployment = Deployment(provider=vendor, connection=connection, model=model)
    assert deployment.data_policy == (vendor.data_policy if known else DataPolicy())
    contract = replace(connection, data_policy=DataPolicy(trains=False, region="eu"))
    own = Deployment(provider=vendor, connection=contract, model=model)
    assert (own.data_policy.trains, own.data_policy.region) == (False, "eu")
