"""How many files and connections this process may have open."""

import resource

SPARE = 1024
"""Files that a process needs apart from its connections: data, weights, logs."""
PER_RANK = 4
"""Connections to each other rank: gloo opens one for each of its groups."""
MOST = 2**20
"""The soft limit is not raised further: some programs visit every number below it when they start another program."""


def raise_open_files(num_ranks: int) -> str | None:
    """Raises the soft limit (ulimit -n) to the hard one; returns what to say if that is too low for so many ranks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    needed = SPARE + PER_RANK * num_ranks
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    return (
        f"a process may open at most {soft:,} files and connections (ulimit -Hn), and one of {num_ranks:,} ranks may "
        f"need {needed:,}; ask the administrator for a higher hard limit"
    )
