"""Sources: what a Chat answer names as its own, three ways: OpenAI's `annotations` (OpenRouter's, too), Perplexity's
`search_results` and its older `citations`. The latter two are marked in the text as [1], [2].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.wire import loose
from shared.wire.canonical import Citation

NAMES = (b'"search_results"', b'"citations"')
"""What Perplexity's answers hold where they name sources."""


def listed(answer: dict[str, Any]) -> list[Citation]:
    """Beside the choices, in the order of their marks; where in the text is not known yet."""
    found = [
        Citation(url=item["url"], title=loose.text(item.get("title")), quote=loose.text(item.get("snippet")))
        for item in loose.tables(answer.get("search_results"))
        if type(item.get("url")) is str
    ]
    return found or [Citation(url=url) for url in loose.array(answer.get("citations")) if type(url) is str]


def annotated(message: dict[str, Any]) -> list[Citation]:
    """In a message or a delta."""
    found = []
    for item in loose.tables(message.get("annotations")):
        told = loose.table(item.get("url_citation"))
        if type(told.get("url")) is str:
            start, end = told.get("start_index"), told.get("end_index")
            known = type(start) is int and type(end) is int
            found.append(
                Citation(
                    url=told["url"],
                    title=loose.text(told.get("title")),
                    quote=loose.text(told.get("content")),
                    start=start if known else None,
                    end=end if known else None,
                )
            )
    return found


def located(citations: Sequence[Citation], text: str) -> tuple[Citation, ...]:
    """Each with its place in the text: where its mark stands first, else all of the text."""
    return tuple(
        citation if citation.start is not None else _at_its_mark(citation, number, text)
        for number, citation in enumerate(citations, 1)
    )


def _at_its_mark(citation: Citation, number: int, text: str) -> Citation:
    mark = f"[{number}]"
    at = text.find(mark)
    start, end = (0, len(text)) if at < 0 else (at, at + len(mark))
    return Citation(url=citation.url, title=citation.title, quote=citation.quote, start=start, end=end)


def url_citations(citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """As OpenAI has them in a message."""
    return [
        {
            "type": "url_citation",
            "url_citation": {"url": each.url, "title": each.title, "start_index": each.start or 0, "end_index": each.end or 0},
        }
        for each in citations
    ]
