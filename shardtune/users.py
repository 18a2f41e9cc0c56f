"""Users by name, for messages."""

import getpass
import os
import pwd


def own_name() -> str:
    """The name of this user, or `user id 1234` where the password file lacks it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        return f"user id {os.getuid()}"


def user_name(number: int) -> str:
    """`user alice`, or `user 1234` if this machine knows no name for the id."""
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
