"""The cells as a table for people: a block for each client format, a row for each provider format."""

from __future__ import annotations

from collections.abc import Sequence

from services.matrix.capabilities import CAPABILITIES
from services.matrix.run import Cell, Outcome

SIGNS = {Outcome.PASS: "pass", Outcome.REFUSED: "refused", Outcome.WRONG: "WRONG"}


def lines(cells: Sequence[Cell]) -> list[str]:
    made: list[str] = []
    names = list(CAPABILITIES)
    widths = [max(len(name), len("refused")) for name in names]
    first = max(len(cell.provider) for cell in cells)
    for client in dict.fromkeys(cell.client for cell in cells):
        header = "  ".join(name.ljust(width) for name, width in zip(names, widths, strict=True))
        made += [f"{client} client", f"  {'provider'.ljust(first)}  {header}".rstrip()]
        for provider in dict.fromkeys(cell.provider for cell in cells if cell.client == client):
            row = {cell.capability: cell for cell in cells if (cell.client, cell.provider) == (client, provider)}
            signs = "  ".join(SIGNS[row[name].outcome].ljust(width) for name, width in zip(names, widths, strict=True))
            made.append(f"  {provider.ljust(first)}  {signs}".rstrip())
        made.append("")
    for cell in cells:
        if cell.outcome is not Outcome.PASS:
            made.append(f"{cell.client} → {cell.provider}, {cell.capability}: {SIGNS[cell.outcome]}: {cell.reason}")
    counts = {outcome: sum(cell.outcome is outcome for cell in cells) for outcome in Outcome}
    made.append(", ".join(f"{count} {outcome.value}" for outcome, count in counts.items()))
    return made
