"""Words with times → segments, SubRip and WebVTT."""

from __future__ import annotations

from collections.abc import Sequence

from shared.wire.transcription.canonical import Word

MOST_CHARACTERS = 84
"""Two lines of 42, the common limit of a subtitle (Netflix and BBC guidelines)."""
MOST_SECONDS = 7.0
LONGEST_GAP_S = 1.0
ENDS = (".", "?", "!", "。", "？", "！")


def segments(words: Sequence[Word]) -> list[Word]:
    """Words joined to subtitles: a new one after a sentence, a pause, or when one is full."""
    made: list[Word] = []
    held: list[Word] = []
    for word in words:
        if held and _is_full(held, word):
            made.append(_joined(held))
            held = []
        held.append(word)
    return [*made, _joined(held)] if held else made


def _is_full(held: Sequence[Word], word: Word) -> bool:
    characters = sum(len(each.text) + 1 for each in held) + len(word.text)
    return (
        held[-1].text.endswith(ENDS)
        or characters > MOST_CHARACTERS
        or word.end_s - held[0].start_s > MOST_SECONDS
        or word.start_s - held[-1].end_s > LONGEST_GAP_S
    )


def _joined(words: Sequence[Word]) -> Word:
    return Word(" ".join(word.text for word in words), words[0].start_s, words[-1].end_s)


def srt(made: Sequence[Word]) -> str:
    lines = [
        f"{number}\n{_time(each.start_s, ',')} --> {_time(each.end_s, ',')}\n{each.text}\n"
        for number, each in enumerate(made, 1)
    ]
    return "\n".join(lines)


def vtt(made: Sequence[Word]) -> str:
    cues = [f"{_time(each.start_s, '.')} --> {_time(each.end_s, '.')}\n{each.text}\n" for each in made]
    return "\n".join(["WEBVTT\n", *cues])


def _time(seconds: float, mark: str) -> str:
    milliseconds = max(0, round(seconds * 1000))
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{mark}{rest % 1000:03}"
