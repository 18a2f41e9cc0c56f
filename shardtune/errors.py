"""The errors that are a user's to mend: each says where, what was found and what to do.

Whoever stands at a process edge prints these as they are and exits with 2; any other exception is our bug and keeps
its traceback.
"""


class ShardtuneError(Exception):
    """A mistake outside the code, in words that end in what to do about it."""


class ConfigError(ShardtuneError):
    """The recipe, an override or the ds_config is wrong."""


class DataError(ShardtuneError):
    """The data, the model folder or the tokenizer cannot be used as they are."""


class LaunchError(ShardtuneError):
    """The job cannot be started on this machine."""


class BadNodesError(LaunchError):
    """The job does better without some of its machines; which ones is written in the run directory."""


class CheckpointError(ShardtuneError):
    """A run directory or a checkpoint cannot be gone on from."""


class TrainingError(ShardtuneError):
    """The training cannot go on with this recipe: its numbers are none any more, or memory is short."""


class ShortOfMemoryError(TrainingError):
    """A rank could not get the memory that it wanted."""


class StartAnewError(TrainingError):
    """The same, and what the next start does otherwise is written in the run directory: it can begin at once."""


class TakenOverError(CheckpointError):
    """Another start writes the run directory now; this one must not."""
