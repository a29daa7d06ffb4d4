"""The shipped catalogue: what `prefix/model` reaches, and no figure without a source."""

from __future__ import annotations

import pytest

from services.simulator.behaviour import MODELS, parse_behaviour
from services.simulator.call import CONTEXT_TOKENS, MAX_OUTPUT_TOKENS
from shared.domain.catalogue import Auth, Provider
from shared.providers.registry import CATALOGUE, load

BASE_URLS = {
    "anthropic": "https://api.anthropic.com/v1",
    "azure": None,
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "glm": "https://api.z.ai/api/paas/v4",
    "minimax": "https://api.minimax.io/v1",
    "perplexity": "https://api.perplexity.ai",
    "qwen-api": "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    "scaleway": "https://api.scaleway.ai/v1",
    "vertex": None,
    "cerebras": "https://api.cerebras.ai/v1",
    "custom": None,
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
USD = 1_000_000_000


@pytest.fixture(scope="module")
def catalogue() -> dict[str, Provider]:
    return load()


def test_every_provider_is_where_its_documentation_says(catalogue: dict[str, Provider]) -> None:
    assert {name: catalogue[name].base_url for name in BASE_URLS} == BASE_URLS


def test_a_provider_is_reached_by_its_own_name(catalogue: dict[str, Provider]) -> None:
    assert {name: catalogue[name].prefix for name in BASE_URLS} == {name: name for name in BASE_URLS}
    assert catalogue["deepseek"].aliases == ("ds",)


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
        and not (
            0.01 * USD <= price.input_nano_per_mtok <= 200 * USD
            and price.input_nano_per_mtok <= price.output_nano_per_mtok <= 700 * USD
            and (price.cache_read_nano_per_mtok or 0) <= price.input_nano_per_mtok
        )
    ]
    assert odd == []


def test_an_output_is_never_longer_than_its_context(catalogue: dict[str, Provider]) -> None:
    odd = [
        f"{provider.prefix}/{model.model_id}"
        for provider in catalogue.values()
        for model in provider.models.values()
        if (model.max_output_tokens or 0) > (model.context_tokens or 10**9)
    ]
    assert odd == []


@pytest.mark.parametrize("name", ["custom", "kimi-code", "nvidia", "ollama", "openrouter", "vllm"])
def test_where_models_are_not_ours_to_know_none_are_listed(catalogue: dict[str, Provider], name: str) -> None:
    assert catalogue[name].models == {}


@pytest.mark.parametrize(
    "name", ["deepseek", "fireworks", "kimi", "kimi-code", "mistral", "nvidia", "ollama", "siliconflow", "together"]
)
def test_a_cap_arrives_under_the_name_that_the_provider_obeys(catalogue: dict[str, Provider], name: str) -> None:
    assert catalogue[name].quirks.rename["max_completion_tokens"] == "max_tokens"


def test_mistral_is_spared_what_it_refuses(catalogue: dict[str, Provider]) -> None:
    quirks = catalogue["mistral"].quirks
    assert quirks.rename["seed"] == "random_seed"
    assert {"user", "store", "logit_bias", "stream_options"} <= set(quirks.drop)
    assert not quirks.stream_usage


def test_usage_may_only_be_asked_for_where_stream_options_are_not_dropped(catalogue: dict[str, Provider]) -> None:
    contradicting = [
        provider.name
        for provider in catalogue.values()
        if provider.quirks.stream_usage and "stream_options" in provider.quirks.drop
    ]
    assert contradicting == []


def test_every_demo_model_is_one_the_simulator_knows(catalogue: dict[str, Provider]) -> None:
    demo = catalogue["demo"].models
    assert [model_id for model_id in demo if parse_behaviour(model_id) is None] == []
    assert set(MODELS) <= set(demo)


def test_demo_models_are_bounded_and_priced_so_that_budgets_can_be_tried(catalogue: dict[str, Provider]) -> None:
    demo = catalogue["demo"].models
    assert {model.max_output_tokens for model in demo.values()} == {MAX_OUTPUT_TOKENS}
    assert all(model.price is not None for model in demo.values())
    assert {demo[model_id].context_tokens for model_id in MODELS} == {CONTEXT_TOKENS}


def test_the_catalogue_holds_one_file_for_each_provider(catalogue: dict[str, Provider]) -> None:
    assert sorted(path.stem for path in CATALOGUE.glob("*.toml")) == sorted(catalogue)
    assert set(BASE_URLS) <= set(catalogue)
