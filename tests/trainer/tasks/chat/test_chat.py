"""Chat: the loss is that of the assistant's replies; loss and generated replies do not depend on the ranks."""

import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import pytest
import torch
import transformers
import transformers.models.llama.modeling_llama

import tests.support.runs as runs
from shardtune.ds_config.resolve import load_ds_config, resolve_ds_config
from shardtune.errors import ConfigError, DataError
from shardtune.launcher.report.page import write_report
from shardtune.recipe.schema import Recipe
from shardtune.recipe.tasks.chat import ChatOptions
from shardtune.rows.source import Row
from shardtune.run_dir.run import Run, write_run_dir
from shardtune.trainer.commands.chat import HELP, Talk, converse
from shardtune.trainer.commands.chat import main as talk_to
from shardtune.trainer.commands.predict import find_model, open_model
from shardtune.trainer.commands.predict import main as predict
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine, sharded_birth
from shardtune.trainer.engine.optimizers import OPTIMIZERS
from shardtune.trainer.model.load import load_model
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks.chat.chat import Chat
from shardtune.trainer.tasks.example import IGNORED, TRUNCATED
from shardtune.trainer.tasks.run_survey import survey
from tests.support.ranks import run_ranks
from tests.support.runs import curve, tiny_recipe
from tests.support.stops import stop_after
from tests.support.tiny import byte_tokenizer, write_causal

WORDS = ["red", "green", "blue", "grey", "stop", "go", "wait", "and"]
SIGNS = {"red": "stop", "green": "go", "grey": "wait"}


def u(content: str = "red") -> dict[str, Any]:
    return {"role": "user", "content": content}


def a(content: str = "stop", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def write_signs(path: Path, num_rows: int, *, seed: int) -> Path:
    """Conversations of one to four rounds: each color is answered by its sign, in the order of the question."""
    chosen = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        messages = []
        for _ in range(chosen.randint(1, 4)):
            colors = chosen.choices(list(SIGNS), k=chosen.randint(1, 3))
            weight = {"weight": chosen.choice([0.5, 2])} if rows and chosen.random() < 0.3 else {}
            messages += [u(" and ".join(colors)), a(" and ".join(map(SIGNS.get, colors)), **weight)]
        rows.append({"messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signs")
    write_causal(folder / "model", WORDS)
    for split, num_rows in (("train", 45), ("dev", 13), ("test", 11)):
        write_signs(folder / f"{split}.jsonl", num_rows, seed=num_rows)
    return folder


def recipe_of(folder: Path, *overrides: str, **task: Any) -> Recipe:
    return tiny_recipe(
        folder,
        f"task={json.dumps({'kind': 'chat', 'max_new_tokens': 8, **task})}",
        f"model.path={folder}/model",
        *overrides,
    )


METRICS = {"reference_metrics": ["rouge_l", "bleu", "chrf"], "generate_dev_rows": None, "generate_test_rows": 9}


def test_loss_metrics_and_replies_do_not_depend_on_the_number_of_ranks(signs: Path, tmp_path: Path) -> None:
    """Also with sharded weights and unequal numbers of generated replies per rank: 13 rows, and 9."""
    seen = {}
    for world_size, stage in ((1, 2), (2, 2), (2, 3)):
        sizes = "train.micro_batch_tokens=140", "train.max_steps=7", "train.eval_every_steps=7"
        run_dir = tmp_path / f"{world_size}-{stage}"
        recipe = recipe_of(signs, f"engine.deepspeed=zero{stage}", *sizes, **METRICS)
        ended, run = runs.train(recipe, run_dir, world_size=world_size)
        assert all(ended)
        seen[world_size, stage] = run
    reference = seen.pop((1, 2))
    for run in seen.values():
        for mine, other in zip(curve(run), curve(reference), strict=True):
            assert mine == pytest.approx(other, rel=1e-4)
        for mine, other in zip(evaluations(run), evaluations(reference), strict=True):
            assert numbers(mine) == pytest.approx(numbers(other), rel=1e-4)
            assert mine["answers"] == other["answers"]
    dev, test = evaluations(reference)
    assert (
        {"loss", "perplexity", "token_accuracy", "rouge_l", "bleu", "chrf"}
        == numbers(dev).keys()
        == numbers(test).keys()
    )
    assert len(dev["answers"]) == len(test["answers"]) == 8
    assert dev["loss"] < curve(reference)[0][1]


def evaluations(run: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in run if event["event"] == "eval"]


def numbers(event: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in event.items() if isinstance(value, float) and name != "time"}


def write_plain(folder: Path, *, tied: bool = True, num_rows: int = 264, **special: str) -> Path:
    """A Llama without a chat template: bytes, two special tokens, and rows of the vocabulary that no token has."""
    special = special or {"bos_token": "<s>", "eos_token": "</s>"}
    byte_tokenizer(*special.values(), model_max_length=256, **special).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=num_rows,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def weights_of(ranks: Ranks, recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
    """The full weights of each recipe's model, once its engine has been built."""
    whole = []
    for recipe in recipes:
        tokenizer = load_tokenizer(recipe)
        task = Chat(recipe.task, {"bleu_tokenizer": "13a"}, tokenizer, load_model_config(recipe))
        ds_config = resolve_ds_config(load_ds_config(recipe.engine.deepspeed), recipe, hidden_size=32)
        with sharded_birth(ds_config):
            model = load_model(recipe, task, tokenizer)

        def make_optimizer(model: Any, config: Any = recipe.optim) -> Any:
            return OPTIMIZERS["adamw"](model, config)

        engine = DeepSpeedEngine(model, ds_config, make_optimizer, ranks=ranks, seed=0)
        weights: dict[str, Any] = {}
        for name, parameter in engine._engine.module.named_parameters(remove_duplicate=False):
            sharded = [parameter] if hasattr(parameter, "ds_id") else []
            with deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
                weights[name] = parameter.tolist()
        whole.append(weights)
    return whole


def test_new_tokens_have_the_same_embeddings_sharded_or_not(tmp_path: Path) -> None:
    """258 tokens and three of Llama 3's do not fit into 260 rows, a multiple of 4: then there are 264."""
    recipes = []
    for tied in (True, False):
        folder = write_plain(tmp_path / f"{tied}" / "model", tied=tied, num_rows=260).parent
        recipes += [recipe_of(folder, f"engine.deepspeed=zero{s}", chat_template="llama3") for s in (2, 3)]
    whole, _ = run_ranks(weights_of, recipes)
    for plain, sharded, tied in ((*whole[:2], True), (*whole[2:], False)):
        assert plain == sharded
        embeddings = torch.tensor(plain["model.embed_tokens.weight"])
        head = torch.tensor(plain["lm_head.weight"])
        assert embeddings.shape == head.shape == (264, 32)
        assert torch.equal(embeddings, head) == tied
        for matrix in (embeddings, head):
            assert torch.allclose(matrix[260:], matrix[:260].mean(0).expand(4, 32), atol=1e-3)


def test_a_sharded_run_with_new_tokens_resumes_exactly(tmp_path: Path) -> None:
    write_plain(tmp_path / "model", num_rows=258)
    for split in ("train", "dev", "test"):
        write_signs(tmp_path / f"{split}.jsonl", 24, seed=1)
    recipe = recipe_of(
        tmp_path, "engine.deepspeed=zero3", "train.max_steps=3", "data.max_tokens=200", chat_template="chatml",
        generate_dev_rows=0, generate_test_rows=0,
    )  # fmt: skip
    _, unbroken = runs.train(recipe, tmp_path / "unbroken", world_size=2)
    stopped, _ = runs.train(recipe, tmp_path / "broken", world_size=2, before=stop_after(1))
    ended, run = runs.train(recipe, tmp_path / "broken", world_size=2)
    assert (stopped, ended) == ([False, False], [True, True])
    assert curve(run) == curve(unbroken) and len(curve(run)) == 3


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run, sharded over two ranks, of a model without a template that learned two replies."""
    folder = tmp_path_factory.mktemp("spoken")
    write_plain(folder / "model")
    for split in ("train", "dev", "test"):
        rows = [{"prompt": "hi", "completion": "yo"}, {"prompt": "ho", "completion": "no."}] * 6
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    schedule = "optim.lr=1e-2", "train.num_epochs=25", "train.eval_every_steps=15", "train.eval_at_start=true"
    recipe = recipe_of(folder, "engine.deepspeed=zero3", *schedule, chat_template="chatml", max_new_tokens=20)
    write_run_dir(Run(recipe, folder / "run", folder))
    assert all(runs.train(recipe, folder / "run", world_size=2)[0])
    return folder / "run"


def test_replies_generated_during_training_are_shown(spoken: Path) -> None:
    first, *_, test = runs.events(spoken, "eval")
    asked = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert test["token_accuracy"] == 1
    assert test["answers"][0] == {"prompt": asked, "answer": "yo", "reference": "yo"}
    assert (first["step"], first["answers"][0]["prompt"]) == (0, asked) and first["answers"][0]["answer"] != "yo"
    page = write_report(spoken).read_text(encoding="utf-8")
    assert page.count("&lt;|im_start|&gt;user\nhi&lt;|im_end|&gt;") == 6 and ">answer at step 0</th>" in page


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_exported_model_speaks_the_named_template_and_stops_by_itself(spoken: Path, name: str) -> None:
    generator: Any = transformers.pipeline("text-generation", model=str(spoken / "export" / name))
    assert len(generator.tokenizer) == 260 and generator.model.get_input_embeddings().num_embeddings == 264
    end = generator.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert generator.tokenizer.eos_token_id == end
    assert {end, 257} <= set(generator.model.generation_config.eos_token_id)
    (answer,) = generator([{"role": "user", "content": "ho"}], max_new_tokens=20)
    assert answer["generated_text"][-1] == {"role": "assistant", "content": "no."}


def test_predict_answers_the_last_turn_of_a_text_or_of_any_format(
    spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sharegpt = {"conversations": [{"from": "human", "value": "hi"}]}
    rows = [{"messages": [u("hi"), a("what?")]}, {"instruction": "ho"}, sharegpt]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert predict([str(spoken), "--text=ho", f"--file={tmp_path}/asked.jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["prediction"] for line in lines] == [{"reply": reply} for reply in ("no.", "yo", "no.", "yo")]


def test_a_dialogue_is_held_over_pipes(spoken: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "shardtune.launcher",
        "chat",
        str(spoken),
        "--temperature=0",
        "--system=S",
        "--model=last",
    ]
    spoken_lines = "/system\nhi\n\n/nothing\n/help\n/reset\nho\n/exit\nunheard"
    done = subprocess.run(words, input=spoken_lines, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"yo\nunknown command /nothing\n{HELP}\n{HELP}\nno.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature=hot"], "expected a number from 0 (the likeliest token) to 100, got 'hot'"),
        (["--max-new-tokens=0"], "expected a whole number above 0, got '0'"),
        (["--model=worst"], "invalid choice"),
    ],
)
def test_invalid_arguments_of_chat_are_refused(
    spoken: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        talk_to([str(spoken), *words])
    assert raised.value.code == 2 and message in capsys.readouterr().err


def test_only_a_chat_can_be_talked_to(spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk_to([str(spoken), "--max-new-tokens=256"]) == 2
    assert "--max-new-tokens=256: the model has 256 positions for prompt and reply" in capsys.readouterr().err
    (tmp_path / "export" / "best").mkdir(parents=True)
    (tmp_path / "facts.json").write_text("{}")
    write_run_dir(Run(tiny_recipe(tmp_path), tmp_path, tmp_path))
    assert talk_to([str(tmp_path)]) == 2
    assert "chatting needs a model of task chat, not classification" in capsys.readouterr().err


def talk(run_dir: Path, written: list[str], *, max_new_tokens: int = 20) -> Talk:
    task, model, tokenizer = open_model(*find_model(run_dir, "last"))
    assert isinstance(task, Chat)
    how: dict[str, Any] = {"system": None, "max_new_tokens": max_new_tokens, "temperature": 0, "write": written.append}
    return Talk(task, model, tokenizer, **how)


def test_ctrl_c_stops_a_reply_and_keeps_what_was_generated(spoken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    dialogue = talk(spoken, written)
    put = transformers.TextStreamer.put
    seen: list[Any] = []

    def interrupt(streamer: Any, value: Any) -> None:
        put(streamer, value)
        seen.append(value)
        if len(seen) == 3:  # the prompt, and two bytes of "no."
            signal.raise_signal(
                signal.SIGINT
            )  # in this thread, because one from another thread would be noticed a token later

    monkeypatch.setattr(transformers.TextStreamer, "put", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes its background jobs ignore it
    try:
        dialogue.ask("ho")
    finally:
        signal.signal(signal.SIGINT, before)
    assert "".join(written) == "no\n"
    assert dialogue.messages == [u("ho"), a("no")]


def test_a_message_that_does_not_fit_is_reported_and_the_dialogue_continues(spoken: Path) -> None:
    written: list[str] = []
    dialogue = talk(spoken, written, max_new_tokens=200)
    lines = iter(["x" * 60, "hi", "ho"])

    def read() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    converse(dialogue, read, written.append)
    assert "".join(written).startswith("(the last round alone has 79 tokens, but only 56 fit)\nyo\n")
    assert [message["content"] for message in dialogue.messages[:3]] == ["hi", "yo", "ho"]


def task_of(folder: Path, **options: Any) -> Chat:
    recipe = recipe_of(folder, **options)
    return Chat(recipe.task, {"bleu_tokenizer": "13a"}, load_tokenizer(recipe), load_model_config(recipe))


def row(line: int = 1, **values: Any) -> Row:
    return Row(values, Path("r.jsonl"), line)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    write_plain(folder / "model")
    return folder


def learned(task: Chat, row: Row, max_tokens: int = 200) -> str | None:
    """The text of an example's targets, with dots for tokens that are not learned; None if the row is dropped."""
    (examples,) = task.encode([row], max_tokens, labeled=True)
    if not examples:
        return None
    return "".join(piece.target or "." for piece in task.preview(examples[0]))


def dots(text: str) -> str:
    """A dot per byte and per special token."""
    return "." * len(re.sub(r"<\|.*?\|>", "!", text))


ROWS = {"messages": [u("a"), a("b", weight=0), u("c"), a("d"), u("e")]}
ASK = dots("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")
REPLY = dots("b<|im_end|>\n")
SYSTEM = dots("<|im_start|>system\nS<|im_end|>\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"train_on": "weights"}, f"{ASK}{REPLY}{ASK}d<|im_end|>"),
        ({"train_on": "all"}, f"{ASK}b<|im_end|>.{ASK}d<|im_end|>"),
        ({"train_on": "last"}, f"{ASK}{REPLY}{ASK}d<|im_end|>"),
        ({"system": "S"}, f"{SYSTEM}{ASK}{REPLY}{ASK}d<|im_end|>"),
    ],
)
def test_the_chosen_replies_are_learned_with_their_ends_of_turn(
    plain: Path, options: dict[str, Any], expected: str
) -> None:
    """Even though rows are padded with the end of turn. Nothing after the last one runs through the model."""
    task = task_of(plain, chat_template="chatml", **options)
    assert learned(task, row(**ROWS)) == expected


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (200, f"{ASK}b<|im_end|>.{ASK}d<|im_end|>"),
        (len(ASK) + 3 + len(ASK) + 2, f"{ASK}b<|im_end|>.{ASK}d<|im_end|>"),
        (len(ASK) + 3 + len(ASK) + 1, f"{ASK}b<|im_end|>.{ASK}d"),
        (len(ASK) + 3 + len(ASK), f"{ASK}b<|im_end|>"),
        (len(ASK) + 1, f"{ASK}b"),
        (len(ASK), None),
        (2, None),
    ],
)
def test_a_long_conversation_is_cut_at_the_limit_and_dropped_if_no_reply_is_within(
    plain: Path, max_tokens: int, expected: str | None
) -> None:
    task = task_of(plain, chat_template="chatml", train_on="all")
    assert learned(task, row(**ROWS), max_tokens) == expected


@pytest.mark.parametrize("max_tokens", [230, 700, 1_000_000])
def test_an_endless_conversation_is_learned_up_to_the_limit(plain: Path, max_tokens: int) -> None:
    task = task_of(plain, chat_template="chatml")
    rounds = [message for number in range(60) for message in (u(f"q{number}"), a(f"r{number}"))]
    ask, expected = "<|im_start|>user\nq{}<|im_end|>\n<|im_start|>assistant\n", ""
    for number in range(60):
        expected += f"{dots(ask.format(number))}r{number}!"
        expected += "."  # the line end after an end of turn
    taught = learned(task, row(messages=rounds), max_tokens)
    assert taught is not None
    assert taught.replace("<|im_end|>", "!") == expected[:max_tokens].rstrip(".")
    ((example,),) = task.encode([row(messages=rounds)], max_tokens, labeled=True)
    assert bool(example[TRUNCATED]) == (max_tokens < 1_000_000)


def test_tokens_of_replies_beyond_the_limit_are_counted_as_lost(plain: Path) -> None:
    task = task_of(plain, chat_template="chatml", train_on="all")
    ((whole,),) = task.encode([row(**ROWS)], 200, labeled=True)
    for max_tokens in (len(ASK) + 1, len(ASK) + 3 + len(ASK), len(ASK) + 3 + len(ASK) + 1):
        ((example,),) = task.encode([row(**ROWS)], max_tokens, labeled=True)
        assert example[TRUNCATED] == len(whole["input_ids"]) - len(example["input_ids"]) > 0


def test_an_evaluation_asks_for_the_last_learned_reply(plain: Path) -> None:
    task = task_of(plain, chat_template="chatml", train_on="all")
    for max_tokens, answer in ((200, "d"), (len(ASK) + 5, "b")):
        ((example,),) = task.encode([row(**ROWS)], max_tokens, labeled=True)
        shown = task.show_answer(" so \n", example)
        assert shown["prompt"].endswith("<|im_start|>assistant\n") and shown["answer"] == "so"
        assert shown["reference"] == answer
        prompts = task.collate_prompts([example, example])
        assert prompts["input_ids"].shape == (2, example["prompt_tokens"])


def test_padding_is_no_target_though_the_end_of_turn_pads(plain: Path) -> None:
    task = task_of(plain, chat_template="chatml")
    short, long = (row(prompt="a", completion=text) for text in ("b", "much longer"))
    examples = [example for row in task.encode([short, long], 200, labeled=True) for example in row]
    batch = task.collate(examples)
    end = task.generation.settings["eos_token_id"][-1] if task.generation else None
    assert batch.inputs["input_ids"][0, -1] == end
    assert (batch.labels[0] != IGNORED).sum() == 2 and (batch.labels == end).sum() == 2
    assert batch.inputs["attention_mask"].sum(1).tolist() == [len(example["input_ids"]) for example in examples]


def test_weights_reach_the_loss_whichever_rows_have_them(signs: Path) -> None:
    split = prepare(recipe_of(signs)).split("train")
    assert split is not None
    examples = split.examples(np.arange(len(split)))
    assert examples[0].get("weights") is None and any(example.get("weights") for example in examples)
    task = task_of(signs)
    assert [task.num_targets(example) for example in examples] == split.num_targets.tolist()
    assert float(task.collate(examples).num_targets) == split.num_targets.sum()


def test_the_facts_contain_the_formats_of_the_rows() -> None:
    rows = [row(messages=[u(), a(), u(), a()]), row(instruction="红", output="停"), row(prompt="红", response="停")]
    facts = survey(Chat, ChatOptions(kind="chat"), {"train": rows, "dev": rows[:1]})
    assert facts == {
        "formats": {"train": {"messages": 1, "alpaca": 1, "prompt_completion": 1}, "dev": {"messages": 1}},
        "replies": {"train": 4, "dev": 2},
        "bleu_tokenizer": "13a",
    }
    assert survey(Chat, ChatOptions(kind="chat"), {"train": rows[1:]})["bleu_tokenizer"] == "zh"
    assert Chat.label_counts(facts) == facts["formats"]


def test_all_malformed_rows_are_named_at_once() -> None:
    rows = [row(1, messages=[u()]), row(2, prompt="a", completion="b"), row(3, conversations=[{"from": "x"}])]
    with pytest.raises(DataError) as raised:
        survey(Chat, ChatOptions(kind="chat"), {"train": rows})
    assert [line.split(": ")[0] for line in str(raised.value).splitlines()] == ["r.jsonl:1", "r.jsonl:3"]


def test_rows_that_the_template_cannot_render_are_named_with_their_lines(plain: Path) -> None:
    task = task_of(plain, chat_template="gemma")
    rows = [
        row(1, messages=[u("a"), a("b"), {"role": "tool", "content": "c"}, a("d")]),
        row(2, messages=[u("a"), a("b")]),
        row(3, messages=[u("a"), a("<end_of_turn>")]),
    ]
    with pytest.raises(DataError) as raised:
        task.encode(rows, 200, labeled=True)
    first, second = str(raised.value).splitlines()
    assert first.startswith(
        "r.jsonl:1: the chat template rejects the conversation: gemma knows a system text, and turns"
    )
    assert second.startswith("r.jsonl:3: message 2 (assistant) contains <end_of_turn>, which the model would read as")
    with pytest.raises(DataError) as raised:
        task.encode([row(7, prompt="a")], 9, labeled=False)
    assert str(raised.value) == "r.jsonl:7: the last round alone has 17 tokens, but only 9 fit"


def test_a_model_without_a_template_is_refused_with_the_names_of_templates(plain: Path) -> None:
    with pytest.raises(
        DataError, match=r"no chat template; set task\.chat_template to one of: chatml, llama3, gemma, z"
    ):
        task_of(plain)


def test_a_model_that_cannot_chat_is_refused(plain: Path) -> None:
    with pytest.raises(DataError, match="transformers has no causal language model for t5"):
        task_of(plain, chat_template="chatml").check_model(transformers.T5Config())
    with pytest.raises(
        DataError, match=r"task\.max_new_tokens: 256 leaves no room for a prompt in a model with 256 posit"
    ):
        task = task_of(plain, chat_template="chatml", max_new_tokens=256)
        task.check_model(transformers.LlamaConfig())


def test_a_prompt_leaves_the_model_room_for_its_reply(plain: Path) -> None:
    task = task_of(plain, chat_template="chatml", max_new_tokens=250)
    (examples,) = task.encode([row(prompt="a")], 200, labeled=False)
    assert task.collate_prompts(examples)["input_ids"].shape == (1, 6)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"reference_metrics": ["bleu"], "generate_dev_rows": 0}, "reference_metrics compare replies; set"),
        ({"reference_metrics": ["meteor"]}, "task.reference_metrics"),
        ({"chat_template": "vicuna"}, "task.chat_template"),
        ({"train_on": "first"}, "task.train_on"),
        ({"roles": {"bot": "model"}}, "task.roles"),
        ({"roles": {" ": "user"}}, "roles: a name is empty"),
        ({"roles": {"Bot": "user", "bot": "assistant"}}, "roles: 'Bot' is given twice"),
        ({"roles": {"User": "assistant"}}, "roles: 'User' is a role itself and cannot be read as assistant"),
        ({"turns": "some"}, "task.turns"),
        ({"thoughts": "keep", "turns": "together"}, "thoughts: keep needs replies of their own"),
        ({"system_turn": "last_user"}, "task.system_turn"),
        ({"template_arguments": {"tools": []}}, "task.template_arguments"),
    ],
)
def test_invalid_options_are_refused_before_anything_starts(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_of(Path("x"), **task)
    with pytest.raises(ConfigError, match=r"checkpoint\.best_metric: got 'bleu'"):
        recipe_of(Path("x"), "checkpoint.best_metric=bleu")


def test_an_evaluation_that_generates_nothing_has_no_replies(signs: Path, tmp_path: Path) -> None:
    recipe = recipe_of(signs, "train.max_steps=1", generate_dev_rows=0, generate_test_rows=3)
    dev, test = evaluations(runs.train(recipe, tmp_path, world_size=1)[1])
    assert "answers" not in dev and len(test["answers"]) == 3
    assert "answers" not in json.loads((tmp_path / "results.json").read_text())["test"]
