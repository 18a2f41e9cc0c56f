"""Errors that users can resolve: each says where, what was found and what to do.

Entry points print them as they are and exit with 2. Any other exception is a bug in shardtune and keeps its traceback.
"""


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
