"""Multiple choice: the likelihood of each choice after its prompt, as by hand; the same on any number of ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.tasks.multiple_choice import MultipleChoiceOptions
from shardtune.rows.source import Row
from shardtune.trainer.commands.predict import main as predict_main
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.tasks.multiple_choice.multiple_choice import MultipleChoice
from shardtune.trainer.tasks.multiple_choice.rows import answer_of
from shardtune.trainer.tasks.run_survey import survey
from tests.support.runs import curve, events, train
from tests.support.tiny import BAD, GOOD, PLAIN, write_causal, write_encoder

RECIPE = """
task: {{kind: multiple_choice, prompt: "the film was {{question}}"}}
model: {{path: {folder}/model}}
data:
  train: {folder}/train.jsonl
  dev: {folder}/train.jsonl
  test: {folder}/train.jsonl
  max_tokens: 24
  cache_dir: {folder}/cache
train: {{global_batch_size: 8, num_epochs: 6, micro_batch_tokens: 64}}
optim: {{lr: 5e-3, warmup_steps: 2}}
engine: {{precision: fp32, deepspeed: zero2}}
report: {{wandb: disabled}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model, and questions whose answer rhymes with the question: good with good, bad with bad."""
    folder = tmp_path_factory.mktemp("choice")
    write_causal(folder / "model", [*GOOD, *BAD, *PLAIN])
    rows = [
        {
            "question": f"very {word}",
            "choices": [f"and {GOOD[(at + 1) % 5]}", f"and {BAD[(at + 2) % 5]}", "so"][: 2 + at % 2],
            "answer": int(word in BAD),
        }
        for at, word in enumerate([*GOOD, *BAD] * 3)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def task_of(folder: Path, **options: Any) -> MultipleChoice:
    tokenizer, config = (
        transformers.AutoTokenizer.from_pretrained(folder / "model"),
        transformers.AutoConfig.from_pretrained(folder / "model"),
    )
    return MultipleChoice(MultipleChoiceOptions(kind="multiple_choice", **options), {}, tokenizer, config)


def row(question: str, choices: Any, answer: Any = 0) -> Row:
    return Row({"question": question, "choices": choices, "answer": answer}, Path("q.jsonl"), 1)


def test_likelihoods_are_those_of_each_choice_alone_after_the_prompt(folder: Path) -> None:
    task = task_of(folder, prompt="{question}")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    rows = [row("the film was", ["good", "very bad", "so very dull"], 2), row("a dull plot is", ["cold", "so grim"], 0)]
    batch = task.collate([example for (example,) in task.encode(rows, 24, labeled=True)])

    def by_hand(question: str, choice: str) -> float:
        ids, before = tokenizer(f"{question} {choice}")["input_ids"], len(tokenizer(question)["input_ids"])
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        return float(sum(logits[at - 1, ids[at]] for at in range(before, len(ids))))

    with torch.no_grad():
        expected = [[by_hand(r.values["question"], choice) for choice in r.values["choices"]] for r in rows]
        predicted = task.predictions(model(**batch.plain_inputs), batch)
        keep_target_loss(model)
        output = model(**batch.inputs)
    for found, values in zip(predicted, expected, strict=True):
        assert found["likelihoods"] == pytest.approx(values, abs=1e-4)
    losses = [torch.tensor(values).log_softmax(0) for values in expected]
    assert task.loss_of_rows(output, batch).tolist() == pytest.approx(
        [-float(losses[0][2]), -float(losses[1][0])], abs=1e-4
    )
    means = [
        max(range(len(v)), key=lambda at: v[at] / (1, 2, 3)[at] if len(v) == 3 else v[at] / (at + 1)) for v in expected
    ]
    metrics = task.metrics(task.score(output, batch))
    sums = [max(range(len(v)), key=v.__getitem__) for v in expected]
    assert metrics == {
        "accuracy": sum(a == b for a, b in zip(sums, (2, 0), strict=True)) / 2,
        "accuracy_per_token": sum(a == b for a, b in zip(means, (2, 0), strict=True)) / 2,
    }


def test_gradients_are_those_of_the_cross_entropy_over_choices(folder: Path) -> None:
    task = task_of(folder, prompt="{question}")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    rows = [row("the film was", ["good", "very bad", "dull"], 1), row("a plot is", ["cold", "so grim"], 0)]
    batch = task.collate([example for (example,) in task.encode(rows, 24, labeled=True)])
    logits = model(**batch.plain_inputs).logits.log_softmax(-1)
    targets, positions = batch.inputs["targets"], batch.inputs["target_positions"]
    each = logits.flatten(0, 1)[positions, targets]
    sums = torch.zeros(6).index_add(0, positions // logits.shape[1], each).view(2, 3)
    sums = torch.stack((sums[0], torch.stack((sums[1, 0], sums[1, 1], torch.tensor(-1e9)))))
    torch.nn.functional.cross_entropy(sums, torch.tensor([1, 0]), reduction="sum").backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    keep_target_loss(model)
    task.loss_sum(model(**batch.inputs), batch).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_it_is_learned_the_same_on_one_rank_and_three(folder: Path) -> None:
    recipe = parse_recipe(RECIPE.format(folder=folder))
    runs = {}
    for ranks in (1, 3):
        assert all(train(recipe, folder / f"on_{ranks}", world_size=ranks)[0])
        runs[ranks] = folder / f"on_{ranks}"
    assert [loss for _, loss, _ in curve(events(runs[3]))] == pytest.approx(
        [loss for _, loss, _ in curve(events(runs[1]))], rel=1e-3
    )
    first, last = (next(e for e in reversed(events(run, "eval")) if e["split"] == "test") for run in runs.values())
    assert first["accuracy"] == last["accuracy"] > 0.9
    assert first["intervals"]["accuracy"] == last["intervals"]["accuracy"]
    assert (runs[1] / "test_rows.jsonl").read_text(encoding="utf-8").count("\n") == 30


def test_predict_gives_the_likeliest_choice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = parse_recipe(RECIPE.format(folder=folder), ["train.max_steps=2"])
    assert all(train(recipe, folder / "short", world_size=1)[0])
    (folder / "short/config.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    assert predict_main([str(folder / "short"), "--file", str(folder / "train.jsonl")]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 30
    for answer in (each["prediction"] for each in answers):
        assert sum(answer["scores"]) == pytest.approx(1, abs=1e-5)
        assert answer["scores"][answer["index"]] == max(answer["scores"])
        assert answer["choice"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"choices": ["x", "y"], "answer": 1}, 1),
        ({"choices": ["x", "y"], "answer": "1"}, 1),
        ({"choices": ["x", "y"], "answer": "B"}, 1),
        ({"choices": ["x", "y"], "answer": " y "}, 1),
        ({"choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answer": "2"}, 1),
        ({"choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "B"}, 1),
        ({"choices": {"sol1": "x", "sol2": "y"}, "answer": 0}, 0),
        ({"choices": "['x', 'y']", "answer": "1"}, 1),
        ({"choices": '["x", "y"]', "answer": 1.0}, 1),
        ({"choices": [54, 56.5], "answer": "B"}, 1),
        ({"choices": ["x", "y"], "answer": "1.0"}, 1),
    ],
)
def test_an_answer_is_found_however_it_is_written(values: dict[str, Any], expected: int) -> None:
    assert answer_of(values, MultipleChoiceOptions(kind="multiple_choice")) == expected


@pytest.mark.parametrize(
    ("choices", "answer", "words"),
    [
        (["x", "y"], 2, "answer: 2 is none of the 2 choices"),
        (["x", "y"], None, "no answer"),
        (["1", "0", "2"], "0", "may be several of the choices; set task.answer"),
        (["1.0", "2"], "1.0", "may be several of the choices; set task.answer"),
        (["x"], 0, "a question needs at least two"),
        ("x or y", 0, "expected a list of texts, got 'x or y'"),
        (["x", "x"], 0, "'x' is there twice"),
        ([], 0, "at least two"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named(choices: Any, answer: Any, words: str) -> None:
    rows = [row("which?", choices, answer), row("who?", ["a", "b"], 0)]
    with pytest.raises(DataError, match=r"q\.jsonl:1: .*") as error:
        survey(MultipleChoice, MultipleChoiceOptions(kind="multiple_choice"), {"train": rows})
    assert words in str(error.value)


def test_numbers_counted_from_one_are_read_as_asked() -> None:
    options = MultipleChoiceOptions(kind="multiple_choice", answer="index_from_1")
    assert answer_of({"choices": ["x", "y"], "answer": 2}, options) == 1


def test_columns_of_letters_are_the_choices() -> None:
    values = {"question": "?", "A": "x", "B": "y", "C": "z", "answer": "C"}
    options = MultipleChoiceOptions(kind="multiple_choice")
    assert MultipleChoice.named_columns(options, values) == {"choices": ["x", "y", "z"]}


def test_long_prompts_lose_their_beginning_and_long_choices_their_row(folder: Path) -> None:
    task = task_of(folder, prompt="{question}")
    (example,), nothing = task.encode(
        [row("the film was " * 9, ["good", "very bad"]), row("the", ["good", "bad " * 9])], 6, labeled=True
    )
    assert [a + b for a, b in zip(example["prompt_lengths"], example["choice_lengths"], strict=True)] == [6, 6]
    assert example["choice_lengths"] == [1, 2] and nothing == []


def test_other_models_and_prompts_are_refused(folder: Path) -> None:
    write_encoder(folder / "encoder")
    config = transformers.AutoConfig.from_pretrained(folder / "encoder")
    with pytest.raises(DataError, match="needs a causal language model, and bert is none"):
        task_of(folder).check_model(config)
    for prompt in ("which?", "{question} {answer}", "{question"):
        with pytest.raises(ConfigError, match=r"task\.prompt"):
            parse_recipe(RECIPE.format(folder=folder), [f"task.prompt={prompt}"])


def test_the_preview_shows_the_right_choice_as_the_target(folder: Path) -> None:
    task = task_of(folder, prompt="{question}")
    ((example,),) = task.encode([row("the film was", ["good", "bad"], 1)], 24, labeled=True)
    spans = task.preview(example)
    assert [span.target for span in spans if span.target is not None] == ["bad"]
    assert "good" in "".join(span.text for span in spans)


def test_a_chat_template_wraps_the_question(folder: Path) -> None:
    task = task_of(folder, prompt="{question}", use_chat_template=True)
    ((example,),) = task.encode([row("the film was", ["good", "bad"], 1)], 64, labeled=True)
    text = "".join(span.text for span in task.preview(example))
    assert "user" in text and "assistant" in text
