"""Conversations come in many formats, and malformed: each row yields messages or its faults."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.errors import DataError
from shardtune.rows.source import Faults, Row, read_rows
from shardtune.trainer.tasks.chat.conversations import ASKED, KEYS, Conversation, format_of, read_conversation

LEGAL_ROLES = "legal: system, user, assistant, tool, and their names elsewhere"


def read(values: dict[str, Any], **how: Any) -> Conversation:
    faults = Faults()
    conversation = read_conversation(Row(values, Path("r.jsonl"), 7), faults, **how)
    faults.raise_if_any()
    assert conversation is not None
    return conversation


def faults_of(values: dict[str, Any], **how: Any) -> str:
    faults = Faults()
    assert read_conversation(Row(values, Path("r.jsonl"), 7), faults, **how) is None
    with pytest.raises(DataError) as raised:
        faults.raise_if_any()
    return str(raised.value)


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation.messages]


def u(content: Any = "Hi", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def a(content: Any = "Yes.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def h(value: Any = "Hi") -> dict[str, Any]:
    return {"from": "human", "value": value}


def g(value: Any = "Yes.", **more: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": value, **more}


SYSTEM = ("system", "Be brief.")
ROUND = [("user", "Hi"), ("assistant", "Yes.")]


@pytest.mark.parametrize(
    ("values", "format_", "expected"),
    [
        ({"messages": [u(), a()]}, "messages", ROUND),
        ({"messages": [u(), a()], "conversations": None, "prompt": "again"}, "messages", ROUND),
        ({"messages": [{"from": "human", "value": "Hi"}, g()]}, "messages", ROUND),
        ({"messages": [{"role": "developer", "content": "Be brief."}, u(), a()]}, "messages", [SYSTEM, *ROUND]),
        ({"messages": [u(), a()], "system": "Be brief."}, "messages", [SYSTEM, *ROUND]),
        ({"messages": [u(), a()], "system": ""}, "messages", ROUND),
        ({"messages": [u("So?"), u(), a()]}, "messages", [("user", "So?"), *ROUND]),
        ({"messages": [u([{"type": "text", "text": "H"}, {"text": "i"}]), a(["Yes", "."])]}, "messages", ROUND),
        ({"messages": [u(name=None, weight=None, tool_calls=None), a(weight=None)]}, "messages", ROUND),
        ({"conversations": [h(), g()]}, "sharegpt", ROUND),
        ({"conversation": [h("在吗？"), g("在。")]}, "sharegpt", [("user", "在吗？"), ("assistant", "在。")]),
        ({"conversations": [u(), a()]}, "sharegpt", ROUND),
        ({"conversations": [{"from": "system", "value": "Be brief."}, h(), g()]}, "sharegpt", [SYSTEM, *ROUND]),
        ({"conversations": [h(), g(), {"from": "observation", "value": ""}, g("So.")]}, "sharegpt",
         [*ROUND, ("tool", ""), ("assistant", "So.")]),
        ({"instruction": "Hi", "output": "Yes."}, "alpaca", ROUND),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, "alpaca", [("user", "Add\n1 2"), ("assistant", "3")]),
        ({"instruction": "Add", "input": "", "output": "3", "history": [["Hi", "Yes."]], "system": "S"}, "alpaca",
         [("system", "S"), *ROUND, ("user", "Add"), ("assistant", "3")]),
        ({"prompt": "Hi", "completion": "Yes."}, "prompt_completion", ROUND),
        ({"question": "Hi", "answer": "Yes."}, "prompt_completion", ROUND),
        ({"query": "Hi", "response": "Yes.", "history": []}, "prompt_completion", ROUND),
        ({"prompt": [u(), a(), u("And?")], "completion": [a("No.")]}, "prompt_completion",
         [*ROUND, ("user", "And?"), ("assistant", "No.")]),
        ({"prompt": [u()], "completion": "Yes."}, "prompt_completion", ROUND),
    ],
)  # fmt: skip
def test_each_format_is_known_by_its_columns(
    values: dict[str, Any], format_: str, expected: list[tuple[str, str]]
) -> None:
    assert format_of(values) == format_
    assert turns(read(values)) == expected


def test_a_given_format_is_read_whatever_other_columns_exist() -> None:
    values = {"messages": [u("x"), a("y")], "instruction": "Hi", "output": "Yes."}
    assert turns(read(values, format_="alpaca")) == ROUND


def test_a_reply_counts_by_its_weight() -> None:
    assert read({"messages": [u(), a(weight=0), u(), a(), u(weight=0), a(weight=0.5)]}).weights == [0, 0, 0, 1, 0, 0.5]
    assert read({"conversations": [h(), g(weight=2)]}).weights == [0, 2]


def test_nothing_in_a_prompt_is_learned() -> None:
    assert read({"prompt": [u(), a(weight=1), u()], "completion": [a(), u(), a()]}).weights == [0, 0, 0, 1, 0, 1]


CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": '{"x": 1}'}}]},
        {"role": "assistant", "content": "", "function_call": {"name": "add", "arguments": '{"x": 1}'}},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"x": 1}}'},
        {"from": "tool_call", "value": '[{"name": "add", "arguments": "{\\"x\\": 1}"}]'},
    ],
)
def test_calls_of_tools_have_their_arguments_as_an_object(message: dict[str, Any]) -> None:
    conversation = read({"messages": [u(), message, {"role": "tool", "content": "2", "tool_call_id": "7"}, a()]})
    assert conversation.messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert conversation.messages[2] == {"role": "tool", "content": "2", "tool_call_id": "7"}
    assert conversation.weights == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "given",
    [
        [{"type": "function", "function": {"name": "add", "parameters": {}}}],
        [{"name": "add", "parameters": {}}],
        '[{"name": "add", "parameters": {}}]',
    ],
)
def test_tools_come_as_schemas_or_as_their_json_text(given: Any) -> None:
    conversation = read({"messages": [u(), a()], "tools": given})
    assert conversation.tools == [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    assert read({"messages": [u(), a()], "tools": []}).tools is None


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [u()]},
        {"messages": [u(), a()]},
        {"messages": [u(), a(), a("Really.")]},
        {"conversations": [h()]},
        {"instruction": "Hi"},
        {"instruction": "Hi", "output": 7},
        {"prompt": "Hi"},
        {"prompt": "Hi", "completion": None},
        {"question": "Hi"},
    ],
)
def test_a_row_to_be_answered_needs_no_reply_and_its_last_reply_is_dropped(values: dict[str, Any]) -> None:
    assert turns(read(values, answered=False)) == [("user", "Hi")]


@pytest.mark.parametrize("key", ["role", "from"])
@pytest.mark.parametrize(
    ("asks", "answers"),
    [
        ("human", "bot"),
        ("User", "Assistant"),
        ("USER", "ASSISTANT"),
        ("user", "model"),
        ("Human", "GPT"),
        ("prompter", "AI"),
    ],
)
def test_roles_are_read_by_the_names_that_others_give_them(key: str, asks: str, answers: str) -> None:
    text = "content" if key == "role" else "value"
    for column in ("messages", "conversations"):
        conversation = read({column: [{key: asks, text: "Hi"}, {key: answers, text: "Yes."}]})
        assert turns(conversation) == ROUND and conversation.weights == [0, 1]
        usual = {"role": ("user",), "from": ("user", "human", "model")}[key]
        expected = [(name, role) for name, (role, _) in zip((asks, answers), ROUND, strict=True) if name not in usual]
        assert list(conversation.renamed) == expected


def test_the_usual_names_of_a_format_need_no_mention() -> None:
    assert read({"conversations": [h(), g(), {"from": "observation", "value": ""}, g("So.")]}).renamed == ()
    assert read({"messages": [u(), a(), {"role": "function", "content": "2"}, a()]}).renamed == ()


def test_other_names_of_roles_are_given_by_the_recipe() -> None:
    rows = {"messages": [{"role": "Patient", "content": "Hi"}, {"role": "doctor", "content": "Yes."}]}
    roles = {"patient": "user", "Doctor": "assistant"}
    assert turns(read(rows, roles=roles)) == ROUND
    message = faults_of(rows)
    assert message.startswith(f"r.jsonl:7: message 1: role 'Patient' is unknown; {LEGAL_ROLES}")
    assert message.splitlines()[0].endswith("Say what it is: task.roles={Patient: user}")
    assert turns(read(rows, roles=None, answered=False))[0] == ("user", "Hi")  # before a recipe is asked


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "text", "value": "Yes."}],
        [{"type": "text", "text": "Yes.", "annotations": []}],
        [{"type": None, "text": "Ye", "value": None}, {"type": "output_text", "text": "s."}],
        [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Yes."}],
        [{"type": "reasoning", "text": "Hm."}, "Yes."],
        [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "Yes."}],
    ],
)
def test_parts_of_a_reply_are_texts_or_thoughts(parts: list[Any]) -> None:
    (_, reply) = read({"messages": [u(), a(parts)]}).messages
    thoughts = (
        {"reasoning_content": "Hm."} if len(parts) == 2 and parts[0].get("type") in ("reasoning", "thinking") else {}
    )
    assert reply == {"role": "assistant", "content": "Yes.", **thoughts}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "tool_call", "name": "add", "arguments": {"x": 1}},
        {"type": "tool_call", "function": {"name": "add", "arguments": '{"x": 1}'}},
        {"type": "tool_call", "tool_call": {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}},
        {"type": "tool_use", "name": "add", "input": {"x": 1}},
        {"type": "function_call", "name": "add", "args": {"x": 1}},
    ],
)
def test_a_part_may_be_a_tool_call(part: dict[str, Any]) -> None:
    for content, text in (([part], ""), ([{"type": "text", "text": "Well."}, part], "Well.")):
        (_, reply) = read({"messages": [u(), a(content)]}).messages
        assert reply == {"role": "assistant", "content": text, "tool_calls": [CALL]}
    assert "not a tool call" in faults_of({"messages": [u(), a([{"type": "tool_call"}])]})


def test_loss_weight_is_another_name_for_weight() -> None:
    assert read({"messages": [u(), a(loss_weight=0), u(), a(loss_weight=0.5, weight=0.5)]}).weights == [0, 0, 0, 0.5]
    assert read({"messages": [u(), a(loss_weight=2, weight=None)]}).weights == [0, 2]
    both = faults_of({"messages": [u(), a(loss_weight=0, weight=1)]})
    assert (
        both == "r.jsonl:7: message 2: weight 1 and loss_weight 0 are two names for the weight of a message; keep one"
    )
    assert "loss_weight: expected a number" in faults_of({"messages": [u(), a(loss_weight="1")]})


SCHEMA = {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "integer", "enum": [1, None]}}}}
FILLED = {
    "name": "add",
    "description": None,
    "parameters": {"type": "object", "properties": {"x": {"type": "integer", "enum": [1, None]}, "city": None}},
}


def test_what_arrow_fills_in_is_no_part_of_a_row() -> None:
    call = {
        "id": None,
        "type": "function",
        "name": None,
        "function": {"name": "add", "arguments": {"x": 1, "city": None}},
    }
    legacy = {"id": None, "type": None, "function": None, "name": "add", "arguments": {"x": 1, "city": None}}
    nulls = {"tool_calls": None, "function_call": None, "name": None, "weight": None, "from": None, "value": None}
    for filled in (call, legacy):
        row = {"messages": [u(**nulls), a(None, **nulls | {"tool_calls": [filled]})], "tools": [FILLED]}
        conversation = read({**row, "conversations": None, "system": None})
        assert conversation.messages == [{"role": "user", "content": "Hi"}, a("", tool_calls=[CALL])]
        assert conversation.tools == [{"type": "function", "function": SCHEMA}]
    written = a("", tool_calls=[{"function": {"name": "add", "arguments": '{"x": null}'}}])
    (_, reply) = read({"messages": [u(), written]}).messages
    assert reply["tool_calls"][0]["function"]["arguments"] == {"x": None}  # by whoever wrote the text


SURROGATE = json.loads('"\\ud800"')
LIST, OBJECT = "expected a list of messages such as", "expected an object with role and content, got"
CALL_TEXT, SCHEMAS = "function_call: expected the JSON text", "tools: expected a list of JSON schemas such as"
PAIRS = "history: expected a list of pairs [question, answer], got"
DEEP: Any = None
for _ in range(900):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", f"messages: {LIST}"),
        ({"role": "user"}, f"messages: {LIST}"),
        ([], f"messages: {LIST}"),
        (None, f"messages: {LIST}"),
        ([None, a()], f"message 1: {OBJECT} None"),
        ([[u()], a()], f"message 1: {OBJECT} [{{"),
        ([{"content": "Hi"}, a()], f"message 1: no role; {LEGAL_ROLES}"),
        ([{"role": "alice", "content": "Hi"}, a()], f"message 1: role 'alice' is unknown; {LEGAL_ROLES}"),
        ([{"role": ["user"], "content": "Hi"}, a()], "message 1: role ['user'] is unknown"),
        ([{"role": "user"}, a()], "no content of message 1 (user)"),
        ([u(None), a()], "no content of message 1 (user)"),
        ([u(3), a()], "message 1 (user): expected a text or a list of text parts, got 3"),
        ([u(" \n"), a()], "message 1 (user) is empty; there is nothing to answer"),
        ([u(), a("")], "message 2 (assistant) is empty; a reply needs a text or tool calls"),
        ([u(), a([])], "message 2 (assistant) is empty; a reply needs a text or tool calls"),
        ([u(), a(tool_calls=[], content="")], "message 2 (assistant) is empty; a reply needs a text or tool calls"),
        ([u([{"type": "image_url", "image_url": {}}]), a()], "message 1 (user): a part is not a text: {"),
        ([u([{"type": "text"}]), a()], "no text in a part of message 1 (user)"),
        ([u([[None]]), a()], "message 1 (user): a part is not a text: [None]"),
        ([u(SURROGATE), a()], "content of message 1 (user): contains an unpaired surrogate"),
        ([a(), u()], "message 1 is from the assistant; begin with a user or system message"),
        ([u()], "no assistant message; there is nothing to learn"),
        ([u(), a(weight="1")], "message 2: weight: expected a number from 0 to 1,000,000, got '1'"),
        ([u(), a(weight=-1)], "message 2: weight: expected a number from 0 to 1,000,000, got -1"),
        ([u(), a(weight=True)], "message 2: weight: expected a number from 0 to 1,000,000, got True"),
        ([u(), a(weight=float("nan"))], "message 2: weight: expected a number from 0 to 1,000,000, got nan"),
        ([u(weight=1), a()], "message 1: a weight on a user message; only assistant messages are learned"),
        ([u(), a(tool_calls="add")], "message 2: tool_calls: expected a list of calls, got 'add'"),
        ([u(), a(tool_calls=[{"function": {}}])], "message 2: not a tool call: {'function': {}}; expected {"),
        ([u(), a(tool_calls=[None])], "message 2: not a tool call: None; expected {"),
        ([u(), a(tool_calls=[{"name": "f", "arguments": "{"}])], "message 2: arguments of f: expected an object"),
        ([u(), a(tool_calls=[{"name": "f", "arguments": {"x": DEEP}}])], "message 2: arguments of f: expected an"),
        ([u(), a(function_call=7)], "message 2: not a tool call: 7; expected {"),
    ],
)  # fmt: skip
def test_malformed_messages_are_named(messages: Any, message: str) -> None:
    assert faults_of({"messages": messages}).startswith(f"r.jsonl:7: {message}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"conversations": "Hi"}, f"conversations: {LIST}"),
        ({"conversations": []}, f"conversations: {LIST}"),
        ({"conversations": None}, f"conversations: {LIST}"),
        ({"conversations": {"human": "Hi", "gpt": "Yes."}}, f"conversations: {LIST}"),
        ({"conversations": ["Hi", "Yes."]}, f"message 1: {OBJECT} 'Hi'"),
        ({"conversations": [[h(), g()]]}, f"message 1: {OBJECT} [{{"),
        ({"conversations": [{"from": "alice", "value": "Hi"}, g()]}, "message 1: from 'alice' is unknown; legal: sys"),
        ({"conversations": [{"from": 1, "value": "Hi"}, g()]}, "message 1: from 1 is unknown; legal: system, user"),
        ({"conversations": [{"value": "Hi"}, g()]}, f"message 1: no role; {LEGAL_ROLES}"),
        ({"conversations": [{"from": "human", "text": "Hi"}, g()]}, "no content of message 1 (user)"),
        ({"conversations": [{"from": "human", "value": None}, g()]}, "no content of message 1 (user)"),
        ({"conversations": [h({"text": "Hi"}), g()]}, "message 1 (user): expected a text or a list of text parts"),
        ({"conversations": [h(), g("")]}, "message 2 (assistant) is empty; a reply needs a text or tool calls"),
        ({"conversations": [h(""), g()]}, "message 1 (user) is empty; there is nothing to answer"),
        ({"conversations": [g(), h()]}, "message 1 is from the assistant"),
        ({"conversations": [h()]}, "no assistant message"),
        ({"conversations": [{"from": "system", "value": "S"}, h()], "system": "T"}, "the system text is given twice"),
        ({"conversations": [h(), {"from": "tool_call", "value": "add(1)"}]}, f"message 2: {CALL_TEXT}"),
        ({"conversations": [h(), {"from": "function_call", "value": "[]"}]}, f"message 2: {CALL_TEXT}"),
        ({"conversations": [h(), {"from": "function_call", "value": "[1]"}]}, f"message 2: {CALL_TEXT}"),
        ({"conversations": [h(), g()], "tools": "add"}, SCHEMAS),
        ({"conversations": [h(), g()], "tools": [{"name": 1}]}, SCHEMAS),
        ({"conversations": [h(), g()], "tools": [{"name": "f", "deep": DEEP}]}, SCHEMAS),
        ({"conversations": [h(), g()], "tools": [{"name": "f", "d": SURROGATE}]}, SCHEMAS),
    ],
)  # fmt: skip
def test_malformed_sharegpt_is_named(values: dict[str, Any], message: str) -> None:
    assert faults_of(values).startswith(f"r.jsonl:7: {message}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "Yes."}, "not a conversation: expected messages; conversations; instruction and output;"),
        ({"instruction": None, "output": "Yes."}, "no instruction"),
        ({"instruction": "", "output": "Yes."}, "instruction is empty; there is nothing to answer"),
        ({"instruction": ["Hi"], "output": "Yes."}, "instruction: expected a text, got ['Hi']"),
        ({"instruction": 5, "output": "Yes."}, "instruction: expected a text, got 5"),
        ({"instruction": "Hi"}, "no output"),
        ({"instruction": "Hi", "output": None}, "no output"),
        ({"instruction": "Hi", "output": "  "}, "output is empty; there is nothing to learn"),
        ({"instruction": "Hi", "output": {"text": "Yes."}}, "output: expected a text, got {'text': 'Yes.'}"),
        ({"instruction": "Hi", "output": "Yes.", "input": 7}, "input: expected a text, got 7"),
        ({"instruction": "Hi", "output": "Yes.", "history": "Hi"}, PAIRS),
        ({"instruction": "Hi", "output": "Yes.", "history": [["Hi"]]}, PAIRS),
        ({"instruction": "Hi", "output": "Yes.", "history": [["Hi", None]]}, "no history 1 (assistant)"),
        ({"instruction": "Hi", "output": "Yes.", "history": [["", "Yes."]]}, "history 1 (user) is empty"),
        ({"instruction": "Hi", "output": "Yes.", "history": [None]}, PAIRS),
        ({"instruction": "Hi", "output": "Yes.", "system": ["S"]}, "system: expected a text, got ['S']"),
        ({"instruction": SURROGATE, "output": "Yes."}, "instruction: contains an unpaired surrogate"),
        ({"instruction": 5, "output": 6}, "instruction: expected a text, got 5\nr.jsonl:7: output: expected a t"),
    ],
)  # fmt: skip
def test_malformed_alpaca_is_named(values: dict[str, Any], message: str) -> None:
    assert faults_of(values).startswith(f"r.jsonl:7: {message}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "not a conversation: expected messages; conversations; instruction and output;"),
        ({"completion": "Yes."}, "not a conversation: expected messages"),
        ({"prompt": None, "completion": "Yes."}, "no prompt"),
        ({"prompt": "", "completion": "Yes."}, "prompt is empty; there is nothing to answer"),
        ({"prompt": 5, "completion": "Yes."}, "prompt: expected a text, got 5"),
        ({"prompt": [], "completion": "Yes."}, f"prompt: {LIST}"),
        ({"prompt": ["Hi"], "completion": "Yes."}, f"prompt message 1: {OBJECT} 'Hi'"),
        ({"prompt": [{"role": "alice"}], "completion": "Yes."}, "prompt message 1: role 'alice' is unknown"),
        ({"prompt": [a()], "completion": "Yes."}, "message 1 is from the assistant"),
        ({"prompt": "Hi"}, "no completion"),
        ({"prompt": "Hi", "completion": None}, "no completion"),
        ({"prompt": "Hi", "response": ""}, "response is empty; there is nothing to learn"),
        ({"prompt": "Hi", "answer": True}, "answer: expected a text, got True"),
        ({"prompt": "Hi", "completion": [u()]}, "completion: no assistant message; there is nothing to learn"),
        ({"prompt": "Hi", "completion": [a("")]}, "completion message 1 (assistant) is empty"),
        ({"prompt": "Hi", "completion": []}, f"completion: {LIST}"),
        ({"question": "Hi", "history": {"Hi": "Yes."}, "answer": "No."}, PAIRS),
    ],
)  # fmt: skip
def test_malformed_prompts_and_completions_are_named(values: dict[str, Any], message: str) -> None:
    assert faults_of(values).startswith(f"r.jsonl:7: {message}")


def test_all_faults_of_a_row_are_reported_at_once() -> None:
    messages = faults_of(
        {"messages": [{"role": "alice"}, u(3), a("", weight=-1)], "tools": 7, "system": 8}
    ).splitlines()
    assert [line.removeprefix("r.jsonl:7: ").split(":")[0] for line in messages] == [
        "message 1", "message 2 (user)", "message 3", "system", "tools",
    ]  # fmt: skip


NAMES = [
    *(name for names in KEYS.values() for name in names),
    *ASKED,
    "completion",
    "output",
    "input",
    "history",
    "tools",
]
WORDS = st.sampled_from(
    ["user", "assistant", "system", "human", "gpt", "function_call", "tool", "text", "", "Hi", "{}"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS | st.just(SURROGATE)
MESSAGE_KEYS = st.sampled_from(
    ["role", "content", "from", "value", "weight", "tool_calls", "function_call", "type", "text", "function", "name"]
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(MESSAGE_KEYS, inner, max_size=4), max_leaves=12
)
MESSAGES = st.lists(
    st.fixed_dictionaries({}, optional={"role": WORDS, "content": WORDS | JSON, "from": WORDS, "value": JSON}),
    max_size=4,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON | MESSAGES, max_size=4), st.booleans())
def test_any_object_yields_messages_or_faults(values: dict[str, Any], answered: bool) -> None:
    faults = Faults()
    conversation = read_conversation(Row(values, Path("r.jsonl"), 1), faults, answered=answered)
    assert (conversation is None) == bool(faults)
    if conversation is not None:
        assert len(conversation.messages) == len(conversation.weights) > 0
        json.dumps([conversation.messages, conversation.tools], ensure_ascii=False).encode()
        replies = [message for message in conversation.messages if message["role"] == "assistant"]
        assert replies or not answered
        assert all(message["content"].strip() or message.get("tool_calls") for message in replies)


def test_rows_from_parquet_are_read_as_those_from_jsonl(tmp_path: Path) -> None:
    """Arrow has one schema for all rows, and fills in what a row does not have."""
    book = {"name": "book", "parameters": {"type": "object", "properties": {"when": {"type": "string"}}}}
    booked = {"name": "book", "arguments": {"when": "now", "for": {"people": 2}}}
    parts = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Well."}]
    rows = [
        {"tools": [SCHEMA], "messages": [u([{"text": "1?"}]), a([], tool_calls=[CALL], weight=0.5)]},
        {"tools": [book], "messages": [u([{"value": "?"}], name="Ann"), a(parts), a(None, tool_calls=[booked])]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    filled, written = (read_rows(tmp_path / f"rows.{ending}", {}) for ending in ("parquet", "jsonl"))
    assert [dict(row.values) for row in filled] != [dict(row.values) for row in written]
    assert [read(dict(row.values)) for row in filled] == [read(dict(row.values)) for row in written]
