"""Sources: what a Responses answer names as its own, two ways: OpenAI's `annotations` of a text, and Perplexity's items of
`search_results`, which the text marks as [1], [2].
"""

from __future__ import annotations

from typing import Any

from shared.wire import loose
from shared.wire.canonical import Citation

SEARCHES = ("search_results", "people_search_results")


def annotated(item: dict[str, Any]) -> list[Citation]:
    """In a message."""
    found = []
    for part in loose.tables(item.get("content")):
        for told in loose.tables(part.get("annotations")):
            if told.get("type") == "url_citation" and type(told.get("url")) is str:
                start, end = told.get("start_index"), told.get("end_index")
                known = type(start) is int and type(end) is int
                place = (start, end) if known else (None, None)
                found.append(Citation(url=told["url"], title=loose.text(told.get("title")), start=place[0], end=place[1]))
    return found


def searched(item: dict[str, Any]) -> list[Citation]:
    """In an item of a search, in the order of their marks; none in other items."""
    if item.get("type") not in SEARCHES:
        return []
    return [
        Citation(url=told["url"], title=loose.text(told.get("title")), quote=loose.text(told.get("snippet")))
        for told in loose.tables(item.get("results"))
        if type(told.get("url")) is str
    ]
