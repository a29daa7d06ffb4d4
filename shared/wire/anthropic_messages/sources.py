"""Sources in a conversation that comes back: those that we wrote into an answer (reply.py citation_of) are no search of
Anthropic's, which would refuse their index.
"""

from __future__ import annotations

from typing import Any

import orjson

from shared.wire import loose
from shared.wire.anthropic_messages.reply import OUR_INDEX

MARK = OUR_INDEX.encode()


def without_ours(messages: bytes) -> bytes:
    """Messages as Anthropic takes them."""
    held = orjson.loads(messages)
    for message in loose.tables(held):
        for block in loose.tables(message.get("content")):
            if any(_is_ours(each) for each in loose.tables(block.get("citations"))):
                block["citations"] = [each for each in block["citations"] if not _is_ours(each)]
                if not block["citations"]:
                    del block["citations"]
    return orjson.dumps(held)


def _is_ours(citation: Any) -> bool:
    return type(citation) is dict and citation.get("encrypted_index") == OUR_INDEX
