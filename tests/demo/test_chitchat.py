"""The conversations of the chat recipe: two speakers take turns, and each conversation is in one split."""

import json

import pytest

from demo.chitchat import MIN_TURNS, README, SPLITS, messages_of, prepare
from demo.fetch import CACHE
from demo.splits import split_of


def say(sender: str, *texts: str) -> list[dict[str, str]]:
    return [{"sender": sender, "text": text, "timestamp": "2018-05-02T19:38:15Z"} for text in texts]


def test_lines_of_one_speaker_before_the_other_answers_are_one_message() -> None:
    turns = [say("b", "Hello", " how are you? "), say("b", "?"), say("a", "fine"), say("b", " "), say("a", "and you")]
    assert messages_of(turns) == [
        {"role": "user", "content": "Hello\nhow are you?\n?"},
        {"role": "assistant", "content": "fine\nand you"},
    ]
    assert messages_of([say("a", "")]) == []


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, object]]]:
    summary = prepare()
    folder = CACHE / "demo" / "chitchat"
    assert (folder / "README.txt").read_text(encoding="utf-8") == README
    splits = {}
    for split in ("train", "dev", "test"):
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[split] = [json.loads(line) for line in lines]
        assert f"{split}.jsonl, {len(lines):,} conversations" in summary
    return splits


def test_every_real_conversation_of_four_turns_is_in_one_split(splits: dict[str, list[dict[str, object]]]) -> None:
    assert sum(map(len, splits.values())) == 3242
    assert len(splits["dev"]) > 80 and len(splits["test"]) > 150
    ids = [{str(row["id"]) for row in rows} for rows in splits.values()]
    assert len(set.union(*ids)) == 3242
    texts = [{json.dumps(row["messages"]) for row in rows} for rows in splits.values()]
    assert len(set.union(*texts)) == sum(map(len, texts))
    assert all(split_of(str(row["id"]), SPLITS) == split for split, rows in splits.items() for row in rows)


def test_the_two_speakers_take_turns_and_the_first_one_asks(splits: dict[str, list[dict[str, object]]]) -> None:
    for row in (row for rows in splits.values() for row in rows):
        roles = [message["role"] for message in row["messages"]]  # type: ignore[attr-defined]
        assert len(roles) >= MIN_TURNS
        assert roles == ["user" if at % 2 == 0 else "assistant" for at in range(len(roles))]
        assert all(message["content"].strip() for message in row["messages"])  # type: ignore[attr-defined]


def test_preparing_again_prints_the_same_summary() -> None:
    assert prepare() == prepare()
