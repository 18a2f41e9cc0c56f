"""Keeps the modules of the working directory from being imported.

`python -m` and `PYTHONPATH=.` put the working directory first, so that a user's own random.py or datasets.py there
would be imported instead of the module that torch or transformers means.
"""

import os
import sys

# Not pathlib: it imports a dozen modules, any of which may have a namesake in the working directory.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120


def leave_out_working_directory() -> None:
    """Remove the working directory from sys.path and from the search path of child processes.

    It stays if shardtune itself is imported from it, as in a checkout that is not installed. Call this before anything
    else is imported; this module imports only what Python has already imported.
    """
    sys.path[:] = _searched(sys.path)
    os.environ |= safe_environment()
    if not os.environ["PYTHONPATH"]:
        del os.environ["PYTHONPATH"]
    if getattr(sys.modules["shardtune"], "__file__", None) is None:
        # A folder of this name in the working directory, such as a clone, was taken for a package without __init__.py.
        del sys.modules["shardtune"]
        __import__("shardtune")


def safe_environment() -> dict[str, str]:
    """The environment variables of a Python process that is to import nothing from the working directory."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    searched = _searched([entry for entry in entries if entry])
    return {"PYTHONPATH": os.pathsep.join(searched), "PYTHONSAFEPATH": "1"}


def _searched(entries: list[str]) -> list[str]:
    """The entries without the working directory; with it, as the last one, where shardtune lies in it."""
    here = os.path.realpath(os.curdir)
    if os.path.realpath(_ROOT) == here:
        return [*(entry for entry in entries if os.path.realpath(entry or os.curdir) != here), _ROOT]
    return [entry for entry in entries if os.path.realpath(entry or os.curdir) != here]
