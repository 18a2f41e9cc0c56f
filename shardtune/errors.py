"""Errors that users can resolve: each says where, what was found and what to do.

Entry points print them as they are and exit with 2. Any other exception is a bug in shardtune and keeps its traceback.
"""

import errno

NOT_OURS = {
    errno.ENOSPC: "free space, or name another folder",
    errno.EDQUOT: "free space, or name another folder",
    errno.EACCES: "ask for the right to do so, or name another path",
    errno.EPERM: "ask for the right to do so, or name another path",
    errno.EROFS: "name another folder",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "name another path",
    errno.ELOOP: "name another path",
}
"""Errors of the system that users can resolve, and how."""


def system_fault(error: OSError, where: str | None = None) -> str | None:
    """What the system refused, and what to do; None if that may be a bug in shardtune.

    `where` is the path if the error does not name it: writing to an open file does not.
    """
    if error.errno not in NOT_OURS:
        return None
    place = error.filename or where
    return f"{f'{place}: ' if place else ''}{error.strerror}; {NOT_OURS[error.errno]}"


class ShardtuneError(Exception):
    """A problem outside the code; the message says what to do about it."""


class ConfigError(ShardtuneError):
    """The recipe, an override or the ds_config is wrong."""


class DataError(ShardtuneError):
    """The data, the model folder or the tokenizer cannot be used."""


class LaunchError(ShardtuneError):
    """The job cannot be started on this machine."""


class BadNodesError(LaunchError):
    """The job should run without some of its nodes, which are listed in the run directory."""


class CheckpointError(ShardtuneError):
    """A run directory or a checkpoint cannot be resumed."""


class TrainingError(ShardtuneError):
    """Training cannot continue with this recipe: loss or gradients are non-finite, or memory ran out."""


class ShortOfMemoryError(TrainingError):
    """A rank ran out of memory."""


class RestartError(TrainingError):
    """Training cannot continue, but the run directory says what the next start does differently, so it may begin at
    once."""


class TakenOverError(CheckpointError):
    """Another start owns the run directory now, so this one must not write to it."""
