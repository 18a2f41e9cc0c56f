"""The labels of a pretrained head, which may be those of a task in another order."""

import re
from collections.abc import Callable, Sequence

_UNNAMED = re.compile(r"LABEL_\d+")


def are_named(head: Sequence[str]) -> bool:
    """Whether these are names: LABEL_0, LABEL_1, … is what transformers calls labels without one."""
    return not all(map(_UNNAMED.fullmatch, head))


def in_head_order(names: Sequence[str], head: Sequence[str]) -> list[str] | None:
    """These names in the order of the head's, which are the same ones or, without ambiguity, differ in case only.

    The names 0, 1, … belong to a head without names. None if the head has other labels.
    """
    heads = [head] if are_named(head) else [head, [str(number) for number in range(len(head))]]
    keys: tuple[Callable[[str], str], ...] = (str, str.casefold)
    for labels in heads:
        for key in keys:
            by_key = {key(name): name for name in names}
            wanted = [key(label) for label in labels]
            if len(by_key) == len(names) == len(wanted) and by_key.keys() == {*wanted}:
                return [by_key[label] for label in wanted]
    return None
