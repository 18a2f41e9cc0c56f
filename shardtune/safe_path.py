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
    cwd = os.path.realpath(os.curdir)

    def is_safe(entry: str) -> bool:
        return entry == _ROOT or os.path.realpath(entry or ".") != cwd

    is_checkout = os.path.realpath(_ROOT) == cwd
    sys.path[:] = [entry for entry in sys.path if is_safe(entry)] + ([_ROOT] if is_checkout else [])
    searched = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and is_safe(entry)]
    searched = [*dict.fromkeys([*searched, *([_ROOT] if is_checkout else [])])]
    if searched:
        os.environ["PYTHONPATH"] = os.pathsep.join(searched)
    else:
        os.environ.pop("PYTHONPATH", None)
    os.environ["PYTHONSAFEPATH"] = "1"
