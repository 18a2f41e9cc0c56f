"""Who speaks in a conversation: what data sets and models call the system, the user, the assistant and the tools."""

from __future__ import annotations

from collections.abc import Mapping

USUAL = {
    "role": frozenset({"system", "developer", "user", "assistant", "tool", "function"}),
    "from": frozenset(
        {"system", "human", "user", "gpt", "assistant", "chatgpt", "bing", "bard", "model", "tool", "function"}
        | {"observation", "function_response", "tool_response", "function_call", "tool_call"}
    ),
}
"""The names that need no mention, by the key that they are under: OpenAI's and ShareGPT's own."""

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("ipython", "tool_result"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}
"""The role that each name stands for, in lower case. A function_call is a message of the assistant."""


def role_of(name: str, own: Mapping[str, str]) -> str | None:
    """The role that a name stands for, by the recipe's `own` names first, whatever its capitals; None if unknown."""
    plain = name.strip().lower()
    return next((role for known, role in own.items() if known.strip().lower() == plain), ROLES.get(plain))


LEGAL = "system, user, assistant, tool, and their names elsewhere (human, gpt, model, bot, …)"
"""The names that are read, for messages."""
