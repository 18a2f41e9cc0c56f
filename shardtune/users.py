"""Users by name, for messages, and their private groups."""

import getpass
import grp
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


def is_private_group(number: int) -> bool:
    """Whether the group is this user's own, in which nobody else is: where systems give each user one, their umask lets
    it write."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    is_own = (group.gr_gid, group.gr_name) == (user.pw_gid, user.pw_name)
    return is_own and not set(group.gr_mem) - {user.pw_name}
