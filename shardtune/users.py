"""Users by name, for messages."""

import pwd


def user_name(number: int) -> str:
    """`user alice`, or `user 1234` if this machine knows no name for the id."""
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
