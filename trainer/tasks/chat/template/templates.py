"""Named chat templates for models that have none, and the tokens that they need.

None of them depends on later messages, so a conversation's beginning is rendered the same however it continues. A
change here changes prepared data: raise FORMAT in trainer/data/prepare/identity.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardtune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A Jinja template and its special tokens."""

    text: str
    tokens: tuple[str, ...]
    end: str | None
    """The token that ends a turn; None for the tokenizer's eos_token."""


CHATML = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- '# Tools\n\nYou may call one or more of these functions:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\n</tools>\n\nWrite each call as a JSON object in <tool_call> tags:\n' }}
    {{- '<tool_call>\n{"name": "a function", "arguments": {"its": "arguments"}}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n' if message.content or not loop.first }}
            {{- '<tool_call>\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

LLAMA3 = r"""
{{- bos_token | default('') }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + (message.content | trim) + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

GEMMA = r"""
{{- bos_token | default('') }}
{%- if messages[0].role == 'system' %}
    {%- set system, turns = messages[0].content + '\n\n', messages[1:] %}
{%- else %}
    {%- set system, turns = '', messages %}
{%- endif %}
{%- for message in turns %}
    {%- if message.role not in ('user', 'assistant') or (loop.first and message.role != 'user') %}
        {{- raise_exception('gemma knows a system text, and turns of user and assistant, the user first') }}
    {%- endif %}
    {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' }}
    {{- (system if loop.first else '') + (message.content | trim) + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
"""

ZEPHYR = r"""
{%- for message in messages %}
    {{- '<|' + message.role + '|>\n' + message.content + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}
"""

CHAT_TEMPLATES = {
    "chatml": ChatTemplate(text=CHATML, tokens=("<|im_start|>", "<|im_end|>"), end="<|im_end|>"),
    "llama3": ChatTemplate(
        text=LLAMA3, tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), end="<|eot_id|>"
    ),
    "gemma": ChatTemplate(text=GEMMA, tokens=("<start_of_turn>", "<end_of_turn>"), end="<end_of_turn>"),
    "zephyr": ChatTemplate(text=ZEPHYR, tokens=(), end=None),
}


def install(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Sets the tokenizer's chat template, adds missing special tokens, and makes the end of turn its eos_token.

    Raises DataError if the template needs the tokenizer's eos_token and there is none.
    """
    template = CHAT_TEMPLATES[name]
    if template.end is None and tokenizer.eos_token is None:
        raise DataError(f"task.chat_template: {name} ends a turn with the eos_token, but the tokenizer has none")
    tokenizer.chat_template = template.text.strip()
    tokenizer.add_tokens(list(template.tokens), special_tokens=True)
    if template.end is not None:
        tokenizer.eos_token = template.end
