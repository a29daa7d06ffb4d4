"""What bridges have in common whose answers are whole: one body in, one body out."""

from __future__ import annotations

from shared.domain.refusal import Refusal
from shared.wire.openai_chat import encode_stream_error
from shared.wire.passthrough import ListeningTap
from shared.wire.tap import ChatTap


class WholeAnswers:
    def tap(self, *, hide_usage: bool) -> ChatTap | ListeningTap:
        """Only legacy completions stream, and those as chat does."""
        return ChatTap(hide_usage)

    def stream_error(self, refusal: Refusal, sequence: int) -> bytes:
        return encode_stream_error(refusal)
