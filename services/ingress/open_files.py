"""How many files this process may have open: a call takes two sockets, and systems begin low (macOS 256, some hosts 1,024)."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

SPARE = 256
"""Besides calls: Redis, the usage log, kept connections to providers, libraries."""


def allow(calls: int) -> int:
    """Have the system allow files for so many calls at once, as far as it may be asked; how many of them it allows
    (getrlimit(2)).

    Logs a warning where that is too few: new clients would be turned away at the socket before `WAYSTATION_MAX_IN_FLIGHT`.
    """
    wanted = 2 * calls + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # macOS allows less than its hard limit says
        most = soft
    if most < wanted:
        log.warning("%d open files are allowed, %d calls at once may need %d: raise the limit (ulimit -n)", most, calls, wanted)
    return most
