"""`shardtune sample-base`: rows that a tiny base model writes, row by row from the seed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from shardtune.recipe.load import parse_recipe
from shardtune.recipe.yaml_lines import read_yaml
from shardtune.rows.source_config import SourceConfig
from shardtune.trainer.commands.sampling import sample_base
from shardtune.trainer.commands.sampling.draws import Sampling
from shardtune.trainer.commands.sampling.replay_file import ReplayFile
from shardtune.trainer.commands.sampling.sample_base import Amount, main, sample, snippet
from shardtune.trainer.commands.sampling.sources import Sampled, recipe_of
from shardtune.trainer.commands.sampling.writers import Drawn
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.ranks import run_ranks
from tests.support.tiny import (
    BAD,
    GOOD,
    PLAIN,
    SPOKEN,
    WRITTEN,
    write_causal,
    write_documents,
    write_encoder,
    write_encoder_decoder,
    write_toy_language,
)

WORDS = [*GOOD, *BAD, *PLAIN]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models: one that continues texts, one that converses, one that translates, and an encoder."""
    folder = tmp_path_factory.mktemp("bases")
    write_causal(folder / "causal", WORDS, chat_template=None)
    write_causal(folder / "talker", WORDS)
    speak(folder / "talker", 5)
    write_encoder(folder / "encoder")
    write_toy_language(folder, toy=20)
    write_encoder_decoder(folder / "translator", [*SPOKEN, *WRITTEN])
    torch.manual_seed(3)
    transformers.MarianMTModel(transformers.MarianConfig.from_pretrained(folder / "translator")).save_pretrained(
        folder / "translator"
    )
    write_documents(folder / "texts.jsonl", 12, seed=1)
    return folder


def speak(folder: Path, end: int, num_special: int = 6) -> None:
    """Makes the model write words alone, about ten of them: its states have a constant part, by which its head rates
    the special tokens low, and the end of a turn a little above a word."""
    config = transformers.LlamaConfig.from_pretrained(folder, tie_word_embeddings=False)
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 10.0
        head = model.lm_head.weight
        head[:, 0] = 0.0
        head[:num_special, 0] = -2.0
        head[end, 0] = 0.2
    model.save_pretrained(folder)


def recipe(folder: Path, task: str, model: str, path: Path, *more: str) -> Path:
    data = f"data: {{train: {folder}/{'toy' if 'translation' in task else 'texts'}.jsonl, max_tokens: 24"
    path.write_text(f"task: {task}\nmodel: {{path: {folder}/{model}}}\n{data}, cache_dir: {path.parent}/cache}}\n")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What the command prints: the item of data.train, and what is said beside it."""
    code = main([*map(str, words), "--device=cpu"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out, err


def said(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a command that is refused."""
    assert main([*map(str, words), "--device=cpu"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


def test_a_language_model_writes_texts_which_the_recipe_reads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = recipe(folder, "{kind: language_modeling}", "causal", tmp_path / "r.yaml"), tmp_path / "replay.jsonl"
    item, err = written(path, f"--out={out}", "--rows=20", capsys=capsys)
    rows = rows_of(out)
    assert len(rows) == 20 and all(row.keys() == {"text"} for row in rows)
    assert {word for row in rows for word in row["text"].split()} <= {*WORDS, "system", "user", "assistant"}
    assert f"{out}: 20 rows" in err
    (read,) = read_yaml(item).value
    assert SourceConfig.model_validate(read) == SourceConfig(path=str(out), name="replay", weight=1.0)
    parse_recipe(path.read_text(), [f"data.train=[{folder}/texts.jsonl, {json.dumps(read)}]"])


def test_a_chat_model_asks_itself_and_replies(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "replay.jsonl"
    _, err = written(folder / "talker", f"--out={out}", "--rows=5", "--max-tokens=48", capsys=capsys)
    assert "has a chat template: it writes conversations" in err
    rows = rows_of(out)
    assert [[message["role"] for message in row["messages"]] for row in rows] == [["user", "assistant"]] * 5
    assert all(message["content"].strip() for row in rows for message in row["messages"])
    assert "<|im_" not in out.read_text() and len({json.dumps(row) for row in rows}) == 5


def test_a_chat_model_replies_to_questions_of_the_data_whose_own_replies_are_not_learned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = [("user", "a film"), ("assistant", "good"), ("user", "so very"), ("assistant", "grim")]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in talk]}) + "\n")
    path, out = recipe(folder, "{kind: chat}", "talker", tmp_path / "r.yaml"), tmp_path / "replay.jsonl"
    written(path, f"--out={out}", f"--prompts={prompts}", "--rows=3", "--max-tokens=60", capsys=capsys)
    for row in rows_of(out):
        *asked, reply = row["messages"]
        assert asked == [
            {"role": "user", "content": "a film"},
            {"role": "assistant", "content": "good", "weight": 0},
            {"role": "user", "content": "so very"},
        ]
        assert reply["role"] == "assistant" and "weight" not in reply


def test_texts_of_the_data_are_continued(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = recipe(folder, "{kind: language_modeling}", "causal", tmp_path / "r.yaml"), tmp_path / "replay.jsonl"
    written(path, f"--out={out}", f"--prompts={folder}/texts.jsonl", "--max-tokens=20", capsys=capsys)
    begun = [row["text"].split()[:10] for row in rows_of(folder / "texts.jsonl")]
    for row in rows_of(out):
        assert any(row["text"].split()[: len(words)] == words for words in begun)


@pytest.mark.parametrize("words", [(), ("--temperature=1", "--rows=25")])
def test_an_encoder_decoder_translates_the_sources_of_the_recipe(
    folder: Path, tmp_path: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    task = "{kind: translation, source_language: en, target_language: fr, max_new_tokens: 28}"
    path, out = recipe(folder, task, "translator", tmp_path / "r.yaml"), tmp_path / "replay.jsonl"
    assert main([str(path), f"--out={out}", "--device=cpu", *words]) in (0, 2)  # untrained, it may end no translation
    sources = {row["source"] for row in rows_of(folder / "toy.jsonl")}
    rows = rows_of(out)
    assert all(row.keys() == {"source", "target"} and row["source"] in sources for row in rows)
    state = json.loads((tmp_path / ".replay.jsonl.sampling").read_text())
    assert state["num_drawn"] == (20 if not words else state["num_drawn"]) and state["num_rows"] == len(rows)


@pytest.mark.parametrize(("model", "task"), [("causal", "{kind: language_modeling}"), ("talker", "{kind: chat}")])
def test_rows_are_the_same_on_any_number_of_ranks_and_after_any_interruption(
    folder: Path, tmp_path: Path, model: str, task: str
) -> None:
    made = recipe_of(recipe(folder, task, model, tmp_path / "r.yaml"), [], print)

    def body(ranks: Ranks, out: Path, *stops: int) -> int:
        writer = Sampled(made, None, out, 20, print).writer(Sampling(5, 1.0, 0.95), ranks.device)
        for num_rows in stops:
            sample(writer, ReplayFile(out, {"seed": 5}), Amount(num_rows, 400, is_enough=False), ranks)
        return 0

    whole = tmp_path / "1.jsonl"
    run_ranks(body, whole, 11, world_size=1)
    assert len(rows_of(whole)) == 11
    run_ranks(body, tmp_path / "3.jsonl", 11, world_size=3)
    assert (tmp_path / "3.jsonl").read_text() == whole.read_text()
    run_ranks(body, tmp_path / "parts.jsonl", 2, 9, world_size=2)
    with (tmp_path / "parts.jsonl").open("a") as file:
        file.write('{"text": "half a l')  # as a killed command leaves it
    run_ranks(body, tmp_path / "parts.jsonl", 11, world_size=1)
    assert (tmp_path / "parts.jsonl").read_text() == whole.read_text()


def test_another_seed_gives_other_rows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        written(
            folder / "causal",
            f"--out={tmp_path}/{seed}.jsonl",
            "--rows=3",
            "--max-tokens=6",
            f"--seed={seed}",
            capsys=capsys,
        )
    one, other = (rows_of(tmp_path / f"{seed}.jsonl") for seed in (0, 1))
    assert not {row["text"] for row in one} & {row["text"] for row in other}


class Scripted:
    """A writer of given draws."""

    def __init__(self, drawn: Sequence[str | dict[str, Any]]) -> None:
        self._drawn = drawn

    def write(self, rows: Sequence[int]) -> list[Drawn]:
        return [(self._drawn[row % len(self._drawn)], False) for row in rows]


def test_what_is_dropped_is_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn: list[str | dict[str, Any]] = [{"text": "a"}, "empty", {"text": "a"}, "looping", "empty", {"text": "b"}]
    made = parse_recipe("task: {kind: language_modeling}\nmodel: {path: x}\ndata: {train: y}\n")
    file = ReplayFile(tmp_path / "out.jsonl", {"max-tokens": 9})

    def body(ranks: Ranks) -> None:
        sample(Scripted(drawn), file, Amount(2, 40, is_enough=False), ranks)
        sample_base._report(file, Amount(2, 40, is_enough=False), made)

    run_ranks(body, world_size=1)
    file.resume()
    assert (file.num_rows, file.num_drawn, file.dropped) == (2, 6, {"empty": 2, "repeated": 1, "looping": 1})
    sample_base._report(file, Amount(2, 40, is_enough=False), made)
    assert f"{file.path}: 2 rows (4 of 6 draws dropped: 2 empty, 1 repeated, 1 looping)" in capsys.readouterr().err
    with pytest.raises(sample_base.DataError, match=r"2 of 3 rows after 6 draws; raise --max-tokens"):
        sample_base._report(file, Amount(3, 40, is_enough=False), made)


def test_the_item_of_the_recipe_names_what_would_not_be_found() -> None:
    text = "task: {kind: chat, format: alpaca}\nmodel: {path: x}\ndata: {train: y, columns: {instruction: ask}}\n"
    item = snippet(Path("replay.jsonl"), parse_recipe(text))
    assert "set task.format=auto, because alpaca would not find the messages" in item
    (read,) = read_yaml(item).value
    assert read == {"path": "replay.jsonl", "name": "replay", "weight": 1.0, "columns": {}}
    streamed = parse_recipe(text, ["data.streaming=true", "train.max_steps=1"])
    assert "weight" not in read_yaml(snippet(Path("replay.jsonl"), streamed)).value[0]


def test_a_model_that_writes_no_rows_is_refused_with_what_to_use_instead(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--out={tmp_path}/x.jsonl"
    path = tmp_path / "r.yaml"
    line = said(folder / "encoder", out, "--rows=2", capsys=capsys)
    assert line == (
        f"model.path: {folder}/encoder is a masked language model, which fills gaps and writes no texts; as replay, "
        "add general text of your own to data.train as a source with a weight, such as {path: general.jsonl, weight: "
        "0.1}"
    )
    line = said(recipe(folder, "{kind: classification}", "encoder", path), out, "--rows=2", capsys=capsys)
    assert line.startswith(
        "task.kind: rows of classification have labels, which the base model does not know; against "
    )
    line = said(recipe(folder, "{kind: chat}", "causal", path), out, "--rows=2", capsys=capsys)
    assert "has no chat template of its own, so it was not trained to converse; as replay, add general text" in line
    line = said(folder / "translator", out, "--rows=2", capsys=capsys)
    assert line.endswith(
        "translator: an encoder-decoder writes only about a source; give a recipe, whose data have some"
    )


def test_what_is_missing_or_contradicts_itself_is_said_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    causal, out = folder / "causal", f"--out={tmp_path}/x.jsonl"
    assert said(causal, out, capsys=capsys).startswith("--rows is missing: how many rows")
    line = said(causal, out, "--rows=2", "--temperature=0", capsys=capsys)
    assert line.startswith("--temperature: at 0 all rows would be the same")
    line = said(causal, out, "--rows=13", "--temperature=0", f"--prompts={folder}/texts.jsonl", capsys=capsys)
    assert line.startswith("--rows: 13 are wanted, but at temperature 0 each of the 12 prompts gives one")
    assert "name it" in said(causal, f"--out={tmp_path}/x.csv", "--rows=2", capsys=capsys)
    assert "there is no folder" in said(causal, "--out=nowhere/x.jsonl", "--rows=2", capsys=capsys)
    assert said(causal, out, "--rows=2", "--max-tokens=999", capsys=capsys) == (
        f"--max-tokens: 999 is more than the maximum of {causal}: 128"
    )
    assert "nowhere.jsonl" in said(causal, out, "--prompts=nowhere.jsonl", capsys=capsys)
    (tmp_path / "bad.jsonl").write_text('{"text": 3}\n')
    line = said(causal, out, f"--prompts={tmp_path}/bad.jsonl", capsys=capsys)
    assert line == f"{tmp_path}/bad.jsonl:1: text: expected a text, got 3"
    (tmp_path / "x.jsonl").write_text("")
    line = said(causal, out, "--rows=2", capsys=capsys)
    assert (
        line == f"--out: {tmp_path}/x.jsonl exists, and this command has not begun it; remove it, or give another file"
    )
    (tmp_path / "x.jsonl").unlink()
    words = (causal, out, "--rows=2", "--max-tokens=6")
    written(*words, capsys=capsys)
    line = said(*words, "--seed=3", "--top-p=0.5", capsys=capsys)
    assert line == (
        f"--out: {tmp_path}/x.jsonl was begun with top-p 0.95, seed 0; give the same again, or another file"
    )
    line = said(*words, f"--prompts={folder}/texts.jsonl", capsys=capsys)
    assert line == f"--out: {tmp_path}/x.jsonl was begun with other prompts; give the same again, or another file"
