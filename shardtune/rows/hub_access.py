"""Whether the Hugging Face hub answers: asked once, because its client would retry for half a minute."""

import functools
import logging
import sys
import threading

log = logging.getLogger(__name__)

PATIENCE_S = 4.0
"""How long the hub may take to answer."""


@functools.cache
def hub_fault() -> str | None:
    """Why the hub cannot be reached, such as `https://huggingface.co does not answer`; None if it can, or if the user
    has turned it off (HF_HUB_OFFLINE).

    If it cannot, this process uses what the hub's cache holds, and a line says so.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return None
    fault = _ask(constants.ENDPOINT)
    if fault is not None:
        log.warning("the Hugging Face hub cannot be reached (%s); only its cache is used", fault)
        constants.HF_HUB_OFFLINE = True
        if (datasets := sys.modules.get("datasets")) is not None:
            datasets.config.HF_HUB_OFFLINE = True
    return fault


def _ask(endpoint: str) -> str | None:
    """Why there is no answer, in a thread of its own: looking up a name has no time limit."""
    from huggingface_hub import get_session

    session = get_session()  # here, because on a busy machine its imports alone take seconds
    answers: list[str | None] = []

    def ask() -> None:
        try:
            session.head(endpoint, timeout=PATIENCE_S)
            answers.append(None)
        except Exception as error:  # whatever the network and the libraries between may raise
            reason = str(error).strip().splitlines()
            answers.append(f"{endpoint}: {reason[0] if reason else type(error).__name__}")

    thread = threading.Thread(target=ask, name="hub", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return answers[0] if answers else f"{endpoint} does not answer within {PATIENCE_S:g} s"
