"""`waystation connect TOOL`: the configuration that points a tool at this gateway, printed, or written where the tool reads it.

Nothing that exists is overwritten: a file that is already there is left alone and what to put into it is printed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from services.cli.say import answer, fail, guarded, json_option


class Target(NamedTuple):
    """What every tool must be told."""

    url: str
    """The gateway's root, without `/v1`."""
    key: str
    model: str


class Advice(NamedTuple):
    """A file's text and place (below the home directory; None: there is no file), and variables for the shell."""

    note: str
    path: str | None = None
    text: str = ""
    variables: tuple[tuple[str, str], ...] = ()


def claude_code(to: Target) -> Advice:
    return Advice(
        note="Claude Code: start it in a shell with these.",
        variables=(
            ("ANTHROPIC_BASE_URL", to.url),
            ("ANTHROPIC_AUTH_TOKEN", to.key),
            ("ANTHROPIC_MODEL", to.model),
            ("ANTHROPIC_DEFAULT_HAIKU_MODEL", to.model),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ),
    )


def codex(to: Target) -> Advice:
    text = (
        f"model = {json.dumps(to.model)}\n"
        'model_provider = "waystation"\n\n'
        "[model_providers.waystation]\n"
        'name = "Waystation"\n'
        f"base_url = {json.dumps(to.url + '/v1')}\n"
        'wire_api = "responses"\n'
        'env_key = "WAYSTATION_KEY"\n'
    )
    return Advice("Codex CLI", ".codex/config.toml", text, (("WAYSTATION_KEY", to.key),))


def gemini_cli(to: Target) -> Advice:
    settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "privacy": {"usageStatisticsEnabled": False}}
    variables = (("GOOGLE_GEMINI_BASE_URL", to.url), ("GEMINI_API_KEY", to.key), ("GEMINI_MODEL", to.model))
    return Advice("Gemini CLI", ".gemini/settings.json", _json(settings), variables)


def opencode(to: Target) -> Advice:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{to.url}/v1", "apiKey": "{env:WAYSTATION_KEY}"},
        "models": {to.model: {}},
    }
    settings = {"model": f"waystation/{to.model}", "provider": {"waystation": provider}}
    return Advice("opencode", ".config/opencode/opencode.json", _json(settings), (("WAYSTATION_KEY", to.key),))


def continue_dev(to: Target) -> Advice:
    text = (
        "name: Waystation\nversion: 1.0.0\nschema: v1\nmodels:\n"
        f"  - name: {json.dumps(to.model)}\n    provider: openai\n    model: {json.dumps(to.model)}\n"
        f"    apiBase: {json.dumps(to.url + '/v1')}\n    apiKey: {json.dumps(to.key)}\n"
        "    capabilities: [tool_use]\n    roles: [chat, edit, apply]\n"
    )
    return Advice("Continue", ".continue/config.yaml", text)


def llm(to: Target) -> Advice:
    text = (
        f"- model_id: waystation\n  model_name: {json.dumps(to.model)}\n  api_base: {json.dumps(to.url + '/v1')}\n"
        "  api_key_name: waystation\n  supports_tools: true\n"
    )
    note = "llm: then `llm keys set waystation`, and `llm -m waystation 'Hello!'`"
    return Advice(note, ".config/io.datasette.llm/extra-openai-models.yaml", text)


def aider(to: Target) -> Advice:
    return Advice(
        f"aider: then `aider --model openai/{to.model}`",
        variables=(("OPENAI_API_BASE", f"{to.url}/v1"), ("OPENAI_API_KEY", to.key)),
    )


def cline(to: Target) -> Advice:
    note = f"Cline: `cline auth -p openai -k $WAYSTATION_KEY -m {to.model} -b {to.url}/v1`"
    return Advice(note, variables=(("WAYSTATION_KEY", to.key),))


def kilo(to: Target) -> Advice:
    made = opencode(to)
    return made._replace(note="Kilo CLI", path=".config/kilo/kilo.json")


def qwen_code(to: Target) -> Advice:
    variables = (("OPENAI_BASE_URL", f"{to.url}/v1"), ("OPENAI_API_KEY", to.key), ("OPENAI_MODEL", to.model))
    return Advice("Qwen Code: start it as `qwen --auth-type openai`.", variables=variables)


def librechat(to: Target) -> Advice:
    text = (
        "endpoints:\n  custom:\n    - name: Waystation\n      apiKey: ${WAYSTATION_KEY}\n"
        f"      baseURL: {json.dumps(to.url + '/v1')}\n      models:\n        default: [{json.dumps(to.model)}]\n"
        "        fetch: true\n      titleConvo: true\n      titleModel: current_model\n"
    )
    return Advice("LibreChat: put this into librechat.yaml", None, text, (("WAYSTATION_KEY", to.key),))


def open_webui(to: Target) -> Advice:
    variables = (("OPENAI_API_BASE_URL", f"{to.url}/v1"), ("OPENAI_API_KEY", to.key), ("ENABLE_OLLAMA_API", "false"))
    return Advice("Open WebUI: start it with these.", variables=variables)


def openai_sdk(to: Target) -> Advice:
    variables = (("OPENAI_BASE_URL", f"{to.url}/v1"), ("OPENAI_API_KEY", to.key))
    return Advice(f"OpenAI's SDKs read these; the model is {to.model}.", variables=variables)


def anthropic_sdk(to: Target) -> Advice:
    variables = (("ANTHROPIC_BASE_URL", to.url), ("ANTHROPIC_API_KEY", to.key))
    return Advice(f"Anthropic's SDKs read these; the model is {to.model}.", variables=variables)


def cursor(to: Target) -> Advice:
    return Advice(
        "Cursor: Settings › Models › OpenAI API key, and `Override OpenAI Base URL`: "
        f"{to.url}/v1. Cursor calls from its own servers, so that URL must be public and https."
    )


TOOLS: dict[str, Callable[[Target], Advice]] = {
    "aider": aider,
    "anthropic-sdk": anthropic_sdk,
    "claude-code": claude_code,
    "cline": cline,
    "codex": codex,
    "continue": continue_dev,
    "cursor": cursor,
    "gemini-cli": gemini_cli,
    "kilo": kilo,
    "librechat": librechat,
    "llm": llm,
    "open-webui": open_webui,
    "openai-sdk": openai_sdk,
    "opencode": opencode,
    "qwen-code": qwen_code,
}


@click.command()
@click.argument("tool", type=click.Choice(sorted(TOOLS)))
@click.option("--url", default="http://127.0.0.1:20128", show_default=True, help="The gateway's address, without /v1.")
@click.option("--key", "gateway_key", envvar="WAYSTATION_KEY", default="YOUR-KEY", help="The key (or WAYSTATION_KEY).")
@click.option("--model", default="demo/chat", show_default=True, help="The model that the tool shall use.")
@click.option("--write", is_flag=True, help="Write the tool's file, if there is none yet.")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), default=Path.home(), help="Where files go.")
@json_option
@guarded
def connect(tool: str, url: str, gateway_key: str, model: str, write: bool, home: Path, as_json: bool) -> None:
    """Show (or write) the configuration that points TOOL at this gateway."""
    advice = TOOLS[tool](Target(url.rstrip("/").removesuffix("/v1"), gateway_key, model))
    path = None if advice.path is None else home / advice.path
    if write and path is not None:
        if path.exists():
            fail(f"{path} exists and is left as it is; `waystation connect {tool}` shows what to put into it")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(advice.text)
    said = {"tool": tool, "path": str(path) if path else None, "text": advice.text, "environment": dict(advice.variables)}
    answer(said | {"written": write and path is not None}, _for_people(advice, path, write), as_json=as_json)


def _for_people(advice: Advice, path: Path | None, write: bool) -> str:
    lines = [f"# {advice.note}"]
    if advice.text:
        place = f"# {path}" + (" (written)" if write else "") if path is not None else ""
        lines += [line for line in (place, advice.text.rstrip()) if line]
    lines += [f"export {name}={value}" for name, value in advice.variables]
    return "\n".join(lines)


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
