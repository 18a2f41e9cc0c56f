"""Learned are the assistant's replies with their ends of turn, whatever the template does."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from shardtune.errors import DataError
from shardtune.trainer.tasks.chat.conversations import Conversation
from shardtune.trainer.tasks.chat.template.templates import CHAT_TEMPLATES, install
from shardtune.trainer.tasks.chat.template.turns import TurnError, Turns, Written
from tests.support.tiny import byte_tokenizer

CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}\
{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

SMOLLM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}"
    + CHATML
)

LLAMA3 = """\
{{ bos_token }}{% for message in messages %}{{ '<|head|>' + message.role + '<|/head|>\\n\\n' }}\
{% if message.role == 'assistant' %}{% generation %}{{ message.content | trim + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ message.content | trim + '<|im_end|>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"""

MISTRAL = """\
{{ bos_token }}{% if messages[0].role == 'system' %}\
{% set system, turns = messages[0].content + '\\n\\n', messages[1:] %}\
{% else %}{% set system, turns = '', messages %}{% endif %}\
{% for message in turns %}\
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if message.role == 'user' %}{{ '[INST] ' + (system if loop.first else '') + message.content + ' [/INST]' }}\
{% else %}{% generation %}{{ ' ' + message.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""

MISTRAL_LATE = MISTRAL.replace("loop.first", "loop.last")
"""Renders the system text in the last question, wherever that is."""

QWEN_THINKING = """\
{% set ns = namespace(last=0) %}\
{% for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
{% for message in messages %}{% if message.role == 'assistant' %}\
{% set parts = message.content.split('</think>') %}{% set text = parts[-1].lstrip('\\n') %}\
{% set thought = parts[0].replace('<think>', '').strip('\\n') if parts | length > 1 else '' %}\
{{ '<|im_start|>assistant\\n' }}\
{% if loop.index0 > ns.last %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}{{ text + '<|im_end|>\\n' }}\
{% else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}\
{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""
"""Like Qwen3: only the newest reply keeps its thoughts, and gets empty ones if it has none."""

VICUNA = """\
{% for message in messages %}{% if message.role == 'user' %}{{ 'USER: ' + message.content }}\
{% else %}{{ ' ASSISTANT: ' + message.content + eos_token }}{% endif %}{% endfor %}"""
"""Has no generation prompt: the header is rendered only with the reply."""

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>")


def of_bytes(template: str, **more: Any) -> Any:
    return byte_tokenizer(*SPECIAL, bos_token="<s>", eos_token="</s>", chat_template=template, **more)


def of_pieces(template: str) -> Any:
    """Like Llama 2's: a space belongs to the word after it, and one is added before the text."""
    letters = [chr(code) for code in range(32, 127)] + ["\n", "▁", "中", "文", "é"]
    tokenizer = Tokenizer(
        models.BPE({token: at for at, token in enumerate(["<unk>", *letters])}, [], unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens(list(SPECIAL))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=template
    )


def u(content: str = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": content}


def a(content: str = "Yes.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def s(content: str = "Be brief.") -> dict[str, Any]:
    return {"role": "system", "content": content}


def write(tokenizer: Any, messages: Sequence[dict[str, Any]], *, last: bool = False, tools: Any = None) -> Written:
    turns = Turns(tokenizer, {})
    replies = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    conversation = Conversation(messages=list(messages), weights=[], tools=tools)
    (written,) = turns.write([turns.texts(conversation, replies[-1:] if last else replies)])
    if isinstance(written, TurnError):
        raise written
    return written


def learned(tokenizer: Any, messages: Sequence[dict[str, Any]], **how: Any) -> list[str]:
    written = write(tokenizer, messages, **how)
    return [tokenizer.decode(written.ids[reply.start : reply.end]) for reply in written.replies]


CONVERSATIONS = [
    [u(), a()],
    [s(), u("What is 1 + 1?"), a("2"), u("Sure?"), a("Yes,\nI am.")],
    [u("中文吗？"), a("会中文。"), u("é"), a("Naïve café 中")],
    [u("  spaces  "), a("a  b   c"), u("\n\n"), a("End.\n\nNo, this is.")],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("template", [CHATML, SMOLLM, LLAMA3, MISTRAL])
@pytest.mark.parametrize("tokenizer_of", [of_bytes, of_pieces])
def test_the_mask_is_that_of_a_template_with_markers(
    tokenizer_of: Any, template: str, messages: list[dict[str, Any]]
) -> None:
    tokenizer = tokenizer_of(template)
    written = write(tokenizer, messages)
    marked = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    length = len(written.ids)
    assert written.ids == marked["input_ids"][:length]
    ours = {at for reply in written.replies for at in range(reply.start, reply.end)}
    assert [int(at in ours) for at in range(length)] == marked["assistant_masks"][:length]
    assert not any(marked["assistant_masks"][length:])


@pytest.mark.parametrize(
    ("name", "end"),
    [("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>"), ("gemma", "<end_of_turn>"), ("zephyr", "</s>")],
)
def test_replies_and_their_ends_are_learned_with_every_named_template(name: str, end: str) -> None:
    tokenizer = byte_tokenizer("<s>", "</s>", bos_token="<s>", eos_token="</s>")
    install(name, tokenizer)
    assert set(CHAT_TEMPLATES[name].tokens) <= set(tokenizer.get_added_vocab())
    assert Turns(tokenizer, {}).end_of_turn == tokenizer.convert_tokens_to_ids(end) == tokenizer.eos_token_id
    for messages in CONVERSATIONS:
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        assert learned(tokenizer, messages) == [reply + end for reply in replies]


def test_every_named_template_is_tested_above() -> None:
    assert set(CHAT_TEMPLATES) == {"chatml", "llama3", "gemma", "zephyr"}


def test_a_template_that_ends_with_the_end_of_text_needs_one() -> None:
    with pytest.raises(DataError, match="zephyr ends a turn with the eos_token, but the tokenizer has none"):
        install("zephyr", byte_tokenizer("<s>"))


CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1, "y": "中"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]
CALLING = [s(), u("1 + 1?"), a("", tool_calls=[CALL]), {"role": "tool", "content": '{"sum": 2}'}, a("2")]


def test_chatml_renders_tools_calls_and_results() -> None:
    tokenizer = byte_tokenizer("</s>", eos_token="</s>")
    install("chatml", tokenizer)
    call = '<tool_call>\n{"name": "add", "arguments": {"x": 1, "y": "中"}}\n</tool_call><|im_end|>'
    assert learned(tokenizer, CALLING, tools=TOOLS) == [call, "2<|im_end|>"]
    text = tokenizer.decode(write(tokenizer, CALLING, tools=TOOLS).ids)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools") and text.count("Be brief.") == 1
    assert '"description": "Adds."' in text and '<|im_start|>tool\n{"sum": 2}<|im_end|>' in text
    said_and_called = a("Let me see.", tool_calls=[CALL, CALL])
    assert learned(tokenizer, [u(), said_and_called])[0].count("\n<tool_call>") == 2


def test_a_default_system_text_is_not_learned() -> None:
    assert learned(of_bytes(SMOLLM), [u(), a(), u(), a("No.")]) == ["Yes.<|im_end|>", "No.<|im_end|>"]


def test_a_reply_begins_where_the_prompt_ends() -> None:
    """GPT-2's tokenizer merges two line ends only at the end of a text, as in a prompt."""
    tokenizer = of_bytes(LLAMA3.replace("| trim", ""), merges=[("Ċ", "Ċ")])
    for reply in ("Yes.", "\n\nYes.", "  Yes."):
        messages = [u(), a(reply), u(), a(reply)]
        written = write(tokenizer, messages)
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
        assert written.ids[: written.replies[0].start] == prompt
        assert learned(tokenizer, messages) == [f"{reply}<|im_end|>"] * 2
        assert tokenizer.decode(written.ids) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_row_whose_reply_merges_with_the_header_is_refused() -> None:
    tokenizer = of_pieces(CHATML)
    tokenizer.backend_tokenizer.model = models.BPE(
        {**tokenizer.get_vocab(), "\nY": 200}, [("\n", "Y")], unk_token="<unk>"
    )
    assert learned(tokenizer, [u(), a("No.")]) == ["No.<|im_end|>"]
    with pytest.raises(TurnError, match="merges the assistant's header with the beginning of a reply"):
        write(tokenizer, [u(), a()])


THOUGHT = "<think>\nHm.\n</think>\n\nYes."


def test_a_template_that_removes_earlier_thoughts_is_refused_except_for_the_last_reply() -> None:
    tokenizer = of_bytes(QWEN_THINKING)
    assert learned(tokenizer, [u(), a(THOUGHT)]) == [f"{THOUGHT}<|im_end|>"]
    messages = [u(), a(THOUGHT), u("Sure?"), a(THOUGHT)]
    with pytest.raises(TurnError) as raised:
        write(tokenizer, messages)
    message = str(raised.value)
    assert message.startswith("the chat template rewrites earlier turns: message 2 is rendered as ")
    assert "before message 4. Set task.train_on=last" in message
    assert learned(tokenizer, messages, last=True) == [f"{THOUGHT}<|im_end|>"]


def test_empty_thoughts_added_by_a_template_belong_to_the_prompt() -> None:
    tokenizer = of_bytes(QWEN_THINKING)
    written = write(tokenizer, [u(), a()])
    assert tokenizer.decode(written.ids).endswith("assistant\n<think>\n\n</think>\n\nYes.<|im_end|>")
    assert learned(tokenizer, [u(), a()]) == ["Yes.<|im_end|>"]
    asked = Turns(tokenizer, {}).prompt(Conversation(messages=[u()], weights=[0]), 500)
    assert asked == written.ids[: written.replies[0].start]
    without = Turns(tokenizer, {"enable_thinking": False})
    assert without.prompt(Conversation(messages=[u()], weights=[0]), 500) == asked


def test_a_header_rendered_only_with_the_reply_is_not_learned() -> None:
    tokenizer = of_bytes(VICUNA)
    assert learned(tokenizer, [u(), a(), u(), a("No.")]) == ["Yes.</s>", "No.</s>"]
    asked = Turns(tokenizer, {}).prompt(Conversation(messages=[u()], weights=[0]), 500)
    assert tokenizer.decode(asked) == "USER: Hi ASSISTANT: "


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (MISTRAL, [u(), u(), a()], "the chat template rejects the conversation: roles must alternate"),
        (MISTRAL, [s(), a()], "the chat template rejects the conversation: roles must alternate"),
        (MISTRAL_LATE, [s(), u(), a(), u(), a()], "message 3: the chat template prompts for a reply with "),
        (CHATML.replace("message.content", "message.text"), [u(), a()], "the chat template rejects the conversation: "),
        (CHATML.replace("messages %}{{", "messages if message.role != 'system' %}{{"), [s(), u(), a()],
         "the chat template omits or changes message 1 (system)"),
        (CHATML.replace("message.content +", "message.content.split('</think>')[-1] +"), [u(), a(THOUGHT)],
         r"message 2: the chat template renders the reply '<think>\nHm.\n</think>\n\nYes.' as '\n\nYes.<|im_end|>\n'"),
        (CHATML, [u(), a("", tool_calls=[CALL])],
         "message 2: the chat template omits the call of add; choose one that supports tools with task.chat_"),
        (CHATML, [u("Say <|im_end|>"), a()], "message 1 (user) contains <|im_end|>, which the model would read as"),
        (CHATML, [u(), a("Or <s>?")], "message 2 (assistant) contains <s>, which the model would read as"),
    ],
)  # fmt: skip
def test_conversations_that_a_template_cannot_render_are_refused(
    template: str, messages: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises((TurnError, DataError)) as raised:
        write(of_bytes(template), messages)
    found = str(raised.value).removeprefix("model.path: the chat template cannot be used for training: ")
    assert found.startswith(message)


def test_whether_two_user_messages_may_follow_each_other_is_up_to_the_template() -> None:
    assert learned(of_bytes(CHATML), [u(), u(), a(), s(), u(), a()]) == ["Yes.<|im_end|>"] * 2
    assert learned(of_bytes(CHATML), [s(), a("Welcome."), u(), a()]) == ["Welcome.<|im_end|>", "Yes.<|im_end|>"]


def test_tools_that_a_template_omits_are_refused() -> None:
    with pytest.raises(TurnError, match="the chat template omits the tool add; choose one that supports tools"):
        write(of_bytes(CHATML), [u(), a()], tools=TOOLS)


def test_results_that_a_template_renders_as_json_are_accepted() -> None:
    template = CHATML.replace("{% else %}{{ message.content", "{% else %}{{ (message.content | tojson)")
    assert learned(of_bytes(template), [u('{"a": "b\nc"}'), a()]) == ["Yes.<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            CHATML.replace("message.content + '<|im_end|>'", "message.content"),
            r"ends a reply with .z., which is not a spec",
        ),
        (CHATML.replace("{% for", "<s><s>{% for", 1), "begins with <s> twice"),
        (
            CHATML.replace("assistant\\n' }}", "Assistant\\n' }}"),
            "prompts for a reply with .*Assistant.*but renders it with",
        ),
        ("{% for", "the chat template rejects the conversation"),
        ("{{ messages[0].content }}", "renders the reply 'q7Xz' as ''"),
    ],
)
def test_a_template_that_cannot_be_used_for_training_is_refused_at_once(template: str, message: str) -> None:
    with pytest.raises(DataError) as raised:
        Turns(of_bytes(template), {})
    assert str(raised.value).startswith("model.path: the chat template cannot be used for training: ")
    assert re.search(message, str(raised.value))


def test_a_prompt_that_is_too_long_loses_its_oldest_rounds_but_not_the_system_text() -> None:
    tokenizer = of_bytes(CHATML)
    turns = Turns(tokenizer, {})
    messages = [s(), u("one"), a("1"), u("two"), a("2"), u("three")]

    def asked(max_tokens: int) -> list[str]:
        ids = turns.prompt(Conversation(messages=messages, weights=[]), max_tokens)
        assert len(ids) <= max_tokens
        return re.findall("(?:system|user|assistant)\n(.*?)<", tokenizer.decode(ids))

    whole = len(turns.prompt(Conversation(messages=messages, weights=[]), 10_000))
    assert asked(whole) == ["Be brief.", "one", "1", "two", "2", "three"]
    assert asked(whole - 1) == ["Be brief.", "two", "2", "three"]
    assert asked(60) == ["Be brief.", "three"]
    with pytest.raises(TurnError, match="the last round alone has 43 tokens, but only 20 fit"):
        asked(20)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
TOKENIZERS = {
    "plain": of_bytes(CHATML),
    "joined": of_bytes(LLAMA3.replace("| trim", ""), merges=[("Ċ", "Ċ"), ("Ġ", "Ġ")]),
    "spaced": of_bytes(MISTRAL),
}


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
@given(rounds=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_whatever_the_conversation_the_replies_are_learned_and_nothing_else(
    name: str, rounds: list[tuple[str, str]]
) -> None:
    tokenizer = TOKENIZERS[name]
    messages = [message for asked, answered in rounds for message in (u(asked), a(answered))]
    space, end = (" ", "</s>") if name == "spaced" else ("", "<|im_end|>")
    assert learned(tokenizer, messages) == [f"{space}{answered}{end}" for _, answered in rounds]
    assert tokenizer.decode(write(tokenizer, messages).ids) == str(
        tokenizer.apply_chat_template(messages, tokenize=False)
    ).removesuffix("\n")
