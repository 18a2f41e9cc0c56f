"""Adapters learn the same on every layout, are all that a checkpoint holds, and leave as they are or merged."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shardtune.ds_config.resolve import load_ds_config, resolve_ds_config
from shardtune.errors import CheckpointError, ConfigError, DataError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.model.lora import LoraConfig
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import MODEL, RESULTS
from shardtune.run_dir.run import Run, find_run, write_run_dir
from shardtune.trainer.checkpoint.base_model import identify, read_base
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, Checkpoints
from shardtune.trainer.checkpoint.manifest import WEIGHTS, Checkpoint
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.commands.check import check
from shardtune.trainer.commands.predict import find_model, open_model
from shardtune.trainer.commands.predict import main as predict
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.engine.snapshot import SavedTensors
from shardtune.trainer.export.export import main as export
from shardtune.trainer.model import load as model
from shardtune.trainer.model import lora
from shardtune.trainer.model.load import keep_model_files
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.reporting.reporter import NullReporter
from shardtune.trainer.tasks import TASKS, task_of
from tests.support.ranks import run_ranks
from tests.support.runs import STEPS_PER_EPOCH, curve, events, tiny_recipe, train, write_tiny
from tests.support.stops import stop_after
from tests.support.tiny import GOOD, write_causal
from tests.trainer.export.test_export import grow, write_larger
from tests.trainer.tasks.chat.test_chat import write_plain

LORA = ("model.lora.r=4", "model.lora.alpha=8", "optim.lr=1e-2", "train.num_epochs=1")
LAYERS = [
    f"bert.encoder.layer.{number}.{end}"
    for number in (0, 1)
    for end in (
        *(f"attention.self.{layer}" for layer in ("query", "key", "value")),
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
]
"""The linear layers of the tiny encoder, but for its pooler, which is adapted too."""


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    return tiny_recipe(folder, *LORA, *overrides)


def train_in(recipe: Recipe, run_dir: Path, run: Run | None = None, **how: Any) -> Path:
    """The directory of a run, as the command line makes it."""
    write_run_dir(run or Run(recipe, run_dir, run_dir))
    train(recipe, run_dir, **how)
    return run_dir


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The same loss and gradient norm in each step."""
    assert len(curve(one)) == len(curve(other)) == STEPS_PER_EPOCH
    for mine, theirs in zip(curve(one), curve(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


def saved(run_dir: Path, step: int) -> dict[str, Tensor]:
    """What a checkpoint holds of weights."""
    checkpoint = Checkpoint(run_dir / "checkpoints" / f"step-{step}")
    tensors, whole = SavedTensors(checkpoint.files(WEIGHTS)), {}
    for name, shape in checkpoint.manifest.shapes.items():
        whole[name] = torch.empty(tuple(shape), dtype=tensors.dtype(name))
        tensors.read(name, 0, whole[name].view(-1))
    return whole


@pytest.fixture(scope="module")
def reference(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One rank, ZeRO-0, each step one micro-batch."""
    recipe = recipe_of(tiny, "engine.deepspeed=zero0")
    return train(recipe, tmp_path_factory.mktemp("reference"), world_size=1)[1]


@pytest.mark.parametrize(("world_size", "stage"), [(2, 0), (2, 1), (2, 2), (2, 3), (3, 3)])
def test_ranks_and_zero_stages_change_nothing(
    tiny: Path, tmp_path: Path, reference: list[dict[str, Any]], world_size: int, stage: int
) -> None:
    overrides = f"engine.deepspeed=zero{stage}", "train.micro_batch_tokens=128", "model.activation_checkpointing=true"
    assert_same(train(recipe_of(tiny, *overrides), tmp_path, world_size=world_size)[1], reference)


def unfrozen() -> None:
    """Breaks this process: the pretrained weights are trained too."""
    right = lora.adapt

    def adapt(model: nn.Module, *args: Any, **how: Any) -> None:
        right(model, *args, **how)
        model.requires_grad_(True)

    model.adapt = adapt


def unseeded() -> None:
    """Breaks this process: its adapters begin with numbers of their own."""
    right = lora.adapt

    def adapt(model: nn.Module, *args: Any, seed: int) -> None:
        right(model, *args, seed=seed + 1)

    model.adapt = adapt


@pytest.mark.parametrize("broken", [unfrozen, unseeded])
def test_other_weights_that_learn_or_begin_are_seen(
    tiny: Path, tmp_path: Path, reference: list[dict[str, Any]], broken: Callable[[], None]
) -> None:
    events_after = train(recipe_of(tiny), tmp_path, world_size=2, before=broken)[1]
    with pytest.raises(AssertionError):
        assert_same(events_after, reference)


@pytest.fixture(scope="module", params=["zero2-bf16", "zero3-fp32"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of two ranks, on a base of its own."""
    strategy, precision = request.param.split("-")
    folder = write_tiny(tmp_path_factory.mktemp("finished"))
    recipe = recipe_of(folder, f"engine.deepspeed={strategy}", f"engine.precision={precision}")
    return train_in(recipe, folder / "run", world_size=2)


def test_a_checkpoint_holds_what_is_trained_and_nothing_else(finished: Path, tiny: Path) -> None:
    adapters = [f"{layer}.lora_{side}.default.weight" for layer in [*LAYERS, "bert.pooler.dense"] for side in "AB"]
    head = ["classifier.weight", "classifier.bias"]
    weights = saved(finished, 6)
    assert sorted(weights) == sorted([*adapters, *head])
    manifest = Checkpoint(finished / "checkpoints" / "step-6").manifest
    assert sorted(manifest.optimizer_scalars) == sorted(weights)
    (start,) = events(finished, "start")
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "encoder").num_parameters()
    num_trained = sum(tensor.numel() for tensor in weights.values())
    added = num_trained - sum(weights[name].numel() for name in head)
    assert start["num_trained"] == num_trained < start["num_parameters"] == whole + added
    files = (finished / "checkpoints" / "step-6").glob("*.safetensors")
    assert sum(tensor.numel() for path in files for tensor in load_file(path).values()) == 3 * num_trained
    recipe, _, _ = find_model(finished, "best")
    foretold = check(recipe, world_size=2, num_previews=0).memory
    assert (foretold.num_trained, foretold.num_parameters) == (num_trained, start["num_parameters"])
    each = 4 if recipe.engine.precision == "fp32" else 2
    assert foretold.terms["optimizer"] >= num_trained * (8 if each == 4 else 12) // 2
    assert foretold.terms["gradients"] >= num_trained * 4 // 2  # added up in fp32


@pytest.mark.parametrize(("strategy", "precision"), [("zero0", "bf16"), ("zero2", "bf16"), ("zero3", "fp32")])
def test_a_run_broken_off_ends_with_the_unbroken_ones_adapters_bit_for_bit(
    tiny: Path, tmp_path: Path, strategy: str, precision: str
) -> None:
    overrides = f"engine.deepspeed={strategy}", f"engine.precision={precision}", "model.lora.dropout=0.1"
    recipe = recipe_of(tiny, *overrides)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(recipe, whole, world_size=2)[0] == [True, True]
    assert train(recipe, broken, world_size=2, before=stop_after(3))[0] == [False, False]
    assert train(recipe, broken, world_size=2)[0] == [True, True]
    assert curve(events(broken)) == curve(events(whole))
    assert json.loads((broken / RESULTS).read_text()) == json.loads((whole / RESULTS).read_text())
    adapters, other = saved(whole, 6), saved(broken, 6)
    assert adapters.keys() == other.keys() and all(torch.equal(adapters[name], other[name]) for name in adapters)


def test_other_ranks_and_stages_go_on_from_the_same_adapters(
    tiny: Path, tmp_path: Path, reference: list[dict[str, Any]]
) -> None:
    for num_ranks, stage, num_steps in ((2, 2, 2), (3, 3, 1), (1, 1, 1), (2, 0, None)):
        stop = stop_after(num_steps) if num_steps else (lambda: None)
        train(recipe_of(tiny, f"engine.deepspeed=zero{stage}"), tmp_path, world_size=num_ranks, before=stop)
    assert [event["step"] for event in events(tmp_path, "start")] == [0, 2, 3, 4]
    assert_same(events(tmp_path), reference)


def batch() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {"input_ids": torch.randint(5, 25, (4, 12)), "attention_mask": torch.ones(4, 12, dtype=torch.long)}


@torch.no_grad()
def logits(model: Any, **more: Any) -> Tensor:
    return torch.as_tensor(model.eval()(**(more or batch())).logits).float()


def base_of(run_dir: Path, **how: Any) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(run_dir.parent / "encoder", **how)


def test_a_folder_of_adapters_is_what_peft_loads_and_says_what_the_run_says(finished: Path) -> None:
    folder = finished / "export" / "best"
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "config.json").exists() and not list(folder.glob("model*.safetensors"))
    recipe, _, facts = find_model(finished, "best")
    dtype = torch.bfloat16 if recipe.engine.precision == "bf16" else torch.float32
    theirs = peft.PeftModel.from_pretrained(base_of(finished, dtype=dtype), folder, autocast_adapter_dtype=False)
    _, ours, _ = open_model(recipe, folder, facts)
    assert torch.equal(logits(theirs), logits(ours))
    assert not torch.allclose(logits(theirs), logits(base_of(finished)), atol=0.1), "adapters that add nothing"
    alone = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    assert torch.allclose(logits(alone), logits(ours), atol=0.05)
    said = json.loads((folder / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(finished.parent / "encoder")
    assert (said["r"], said["lora_alpha"], said["task_type"], said["modules_to_save"]) == (
        4,
        8,
        "SEQ_CLS",
        ["classifier"],
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card and "LoRA adapters (r = 4) for `encoder`" in card
    assert str(finished.parent) not in card, "a folder of this machine"


def test_the_run_directory_predicts_what_the_run_has_measured(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict([str(finished), f"--file={finished.parent}/test.jsonl"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    accuracy = sum(answer["prediction"]["label"] == answer["label"] for answer in answers) / len(answers)
    assert accuracy == pytest.approx(json.loads((finished / RESULTS).read_text())["test"]["accuracy"])


def test_a_merged_export_is_a_whole_model_whose_weights_are_merged_in_fp32_and_cast_once(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export([str(finished), "--merge-lora", "--step=6", "--dtype=fp32"]) == 0
    folder = finished / "export" / "step-6-merged"
    assert capsys.readouterr().out.strip() == str(folder)
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert merged.config.id2label == {0: "negative", 1: "positive"}
    adapters, base = saved(finished, 6), dict(base_of(finished).state_dict())
    expected = {}
    for name, weight in base.items():
        layer = name.removesuffix(".weight")
        down, up = (adapters.get(f"{layer}.lora_{side}.default.weight") for side in "AB")
        changed = weight if down is None or up is None else weight + (up @ down) * 2
        expected[name] = adapters.get(name, changed)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.state_dict().items())
    assert export([str(finished), "--merge-lora", "--step=6", "--dtype=bf16", f"--out={tmp_path}/half"]) == 0
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert all(torch.equal(tensor, expected[name].bfloat16()) for name, tensor in half.items())
    assert len(half) == len(expected)
    classify: Any = transformers.pipeline("text-classification", model=str(tmp_path / "half"))
    assert classify("a good film")[0]["label"] in ("negative", "positive")
    assert export([str(finished), "--step=6", "--dtype=fp32", f"--out={tmp_path}/adapters"]) == 0
    adapted = peft.PeftModel.from_pretrained(base_of(finished), tmp_path / "adapters")
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-4)
    assert not torch.allclose(logits(merged), logits(base_of(finished)), atol=0.1)


def test_another_base_is_refused_where_the_run_goes_on_is_exported_or_asked(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny, folder)
    run_dir = train_in(recipe_of(folder, "train.max_steps=2"), folder / "run", world_size=1)
    assert predict([str(run_dir), "--text=good film"]) == 0
    weights = load_file(folder / "encoder" / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"] += 1
    save_file(weights, folder / "encoder" / "model.safetensors", metadata={"format": "pt"})
    capsys.readouterr()
    said = "its adapters were trained on other base weights than"
    for command in (
        lambda: export([str(run_dir)]),
        lambda: export([str(run_dir), "--merge-lora"]),
        lambda: predict([str(run_dir), "--text=good film"]),
    ):
        assert command() == 2
        complaint = capsys.readouterr().err
        assert said in complaint and "(model.safetensors differs)" in complaint and "Restore the base" in complaint
    with pytest.raises(AssertionError, match=said):
        train(recipe_of(folder, "train.max_steps=2"), run_dir, world_size=1)


def test_a_run_of_another_kind_is_not_gone_on_from(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny, "train.max_steps=1"), tmp_path / "whole", world_size=1)
    with pytest.raises(AssertionError, match=r"holds the whole model, but the recipe trains adapters"):
        train(recipe_of(tiny, "train.max_steps=2"), tmp_path / "whole", world_size=1)
    run_dir = train_in(recipe_of(tiny, "train.max_steps=1"), tmp_path / "adapters", world_size=1)
    with pytest.raises(AssertionError, match=r"holds adapters, but the recipe trains the whole model"):
        train(tiny_recipe(tiny, "train.max_steps=2"), run_dir, world_size=1)


def test_merging_what_has_no_adapters_is_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run_dir(Run(tiny_recipe(tiny), tmp_path / "run", tmp_path))
    assert export([str(tmp_path / "run"), "--merge-lora"]) == 2
    assert "has no adapters, because its recipe has no model.lora" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.lora.r=0"], r"model.lora.r=0': must be above 0, got 0"),
        (["model.lora.dropout=1"], r"must be below 1, got 1"),
        (["model.lora.targets=all"], r"got 'all'; legal: all-linear, or a list"),
        (["model.lora.targets=[]"], r"the list is empty; name layers, or write all-linear"),
        (["model.lora.rank=8"], r"model.lora.rank=8': unknown key"),
        (["model.lora_alpha=8"], r"unknown key; did you mean model\.lora\.alpha\?"),
        (["model.lora={}", "model.from_scratch=true"], r"adapters need pretrained weights, but from_scratch has none"),
    ],
)
def test_wrong_words_are_refused_with_the_key_and_what_to_do(tiny: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_recipe(tiny, *overrides)


def chosen(recipe: Recipe) -> lora.Adapters:
    """What the words of a recipe mean for its model."""
    assert recipe.model.lora is not None
    task = TASKS[recipe.task.kind](
        recipe.task, prepare(recipe).facts, load_tokenizer(recipe), load_model_config(recipe)
    )
    auto_model = getattr(transformers, task.auto_model)
    return lora.choose(auto_model.from_config(load_model_config(recipe, task)), recipe.model.lora, task)


def causal_recipe(folder: Path, *overrides: str) -> Recipe:
    text = f"""
task: {{kind: chat, max_new_tokens: 4}}
model: {{path: {folder}/model}}
data: {{train: {folder}/rows.jsonl, test: {folder}/rows.jsonl, max_tokens: 32}}
train: {{global_batch_size: 6, num_epochs: 5}}
optim: {{lr: 2e-2}}
engine: {{precision: fp32}}
report: {{wandb: disabled}}
"""
    return parse_recipe(text, [f"data.cache_dir={folder}/cache", "model.lora.r=4", *overrides])


def test_names_that_the_model_does_not_have_are_refused_with_those_that_it_has(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"model\.lora\.targets: .* no linear layer called 'q_proj'; it has dense, key, q"
    ):
        chosen(recipe_of(tiny, "model.lora.targets=[q_proj]"))
    with pytest.raises(DataError, match=r"model\.lora\.train_whole: the model has no module called 'head'; it has"):
        chosen(recipe_of(tiny, "model.lora.train_whole=[head]"))
    write_dialogues(tmp_path)
    with pytest.raises(DataError, match=r"lm_head shares its weight with model\.embed_tokens, .*; drop lm_head, or"):
        chosen(causal_recipe(tmp_path, "model.lora.targets=[lm_head]"))


def test_a_run_directory_belongs_to_one_set_of_adapters(tiny: Path, tmp_path: Path) -> None:
    write_run_dir(Run(recipe_of(tiny), tmp_path / "run", tmp_path))
    (tmp_path / "other.yaml").write_text((tmp_path / "run" / "config.yaml").read_text().replace("r: 4", "r: 8"))
    with pytest.raises(CheckpointError, match=r"belongs to another recipe:\n  model\.lora\.r: 4 -> 8"):
        find_run(tmp_path / "other.yaml", [], tmp_path / "run")


def test_layers_are_chosen_by_the_ends_of_their_names(tiny: Path) -> None:
    chosen_layers = chosen(
        recipe_of(tiny, "model.lora.targets=[query, attention.output.dense]", "model.lora.train_whole=[pooler]")
    )
    assert sorted(chosen_layers.targets) == sorted(
        f"bert.encoder.layer.{number}.attention.{end}" for number in (0, 1) for end in ("self.query", "output.dense")
    )
    assert chosen_layers.whole == ("bert.pooler", "classifier")
    assert set(chosen(recipe_of(tiny)).targets) == {*LAYERS, "bert.pooler.dense"}


def write_dialogues(folder: Path) -> Path:
    """A model with tied embeddings, and two replies that it can learn."""
    write_causal(folder / "model", [*GOOD, "hi", "ho"])
    rows = [{"prompt": "hi", "completion": "good fine"}, {"prompt": "ho", "completion": "warm bright great"}] * 6
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize("strategy", ["zero0", "zero3"])
def test_a_packed_chat_with_tied_embeddings_learns_answers_and_leaves_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    folder = write_dialogues(tmp_path)
    recipe = causal_recipe(
        folder, f"engine.deepspeed={strategy}", "data.packing=on", "model.activation_checkpointing=true"
    )
    run_dir = train_in(recipe, tmp_path / "run", world_size=2)
    assert events(run_dir, "start")[0]["packed"]
    assert events(run_dir, "eval")[-1]["token_accuracy"] == 1
    shown = {answer["reference"]: answer["answer"] for answer in events(run_dir, "eval")[-1]["answers"]}
    assert all(answer == reference for reference, answer in shown.items()) and shown
    assert not any("embed" in name or "lm_head" in name for name in saved(run_dir, 10))
    assert predict([str(run_dir), "--text=hi"]) == 0
    assert "good fine" in capsys.readouterr().out
    assert export([str(run_dir), "--merge-lora"]) == 0
    merged: Any = transformers.AutoModelForCausalLM.from_pretrained(capsys.readouterr().out.strip())
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    ids = torch.tensor([[4, 8, 9, 15, 5, 4, 8]])
    adapted = peft.PeftModel.from_pretrained(base, run_dir / "export" / "best")
    assert torch.allclose(logits(merged, input_ids=ids), logits(adapted, input_ids=ids), atol=1e-4)


def test_embeddings_trained_whole_stay_tied_and_go_with_the_adapters(tmp_path: Path) -> None:
    folder = write_dialogues(tmp_path)
    recipe = causal_recipe(folder, "model.lora.train_whole=[embed_tokens]", "train.num_epochs=2")
    run_dir = train_in(recipe, tmp_path / "run", world_size=2)
    assert "model.embed_tokens.weight" in saved(run_dir, 4)
    assert export([str(run_dir), "--merge-lora", f"--out={tmp_path}/merged"]) == 0
    base, merged = (
        transformers.AutoModelForCausalLM.from_pretrained(path) for path in (folder / "model", tmp_path / "merged")
    )
    assert not torch.equal(base.model.embed_tokens.weight, merged.model.embed_tokens.weight)
    ids = torch.tensor([[4, 8, 9, 15, 5, 4, 8]])
    adapted = peft.PeftModel.from_pretrained(base, run_dir / "export" / "best")
    assert torch.allclose(logits(merged, input_ids=ids), logits(adapted, input_ids=ids), atol=1e-4)


def test_new_tokens_are_learned_with_their_embeddings_and_leave_with_the_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """258 tokens and two of ChatML's, where the model has 258 rows."""
    write_plain(tmp_path / "model", num_rows=258)
    rows = [{"prompt": "hi", "completion": "yo"}, {"prompt": "ho", "completion": "no."}] * 6
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = causal_recipe(tmp_path, "task.chat_template=chatml", "data.max_tokens=64", "train.num_epochs=1")
    run_dir = train_in(recipe, tmp_path / "run", world_size=1)
    learned = saved(run_dir, 2)["model.embed_tokens.weight"]
    assert learned.shape == (260, 32)
    assert export([str(run_dir), "--merge-lora", f"--out={tmp_path}/merged"]) == 0
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(merged.lm_head.weight, learned)
    recipe, folder, facts = find_model(run_dir, "last")
    ids = torch.tensor([[256, 258, 104, 105, 259]])
    _, adapted, _ = open_model(recipe, folder, facts)
    assert torch.allclose(logits(merged, input_ids=ids), logits(adapted, input_ids=ids), atol=1e-4)


@pytest.mark.parametrize("template", ["chatml", "zephyr"])
def test_new_tokens_are_learned_also_where_the_vocabulary_has_room_for_them(tmp_path: Path, template: str) -> None:
    """Of 264 rows, six have no token; zephyr needs no new one."""
    folder = write_plain(tmp_path / "model")
    recipe = causal_recipe(tmp_path, f"task.chat_template={template}")
    tokenizer, notes = load_tokenizer(recipe), list[str]()
    task = task_of(recipe, {"bleu_tokenizer": "13a"}, tokenizer, load_model_config(recipe))
    learner = model.load_model(recipe, task, tokenizer, say=notes.append)
    assert learner.get_input_embeddings().weight.shape == (264, 32)
    assert learner.get_input_embeddings().weight.requires_grad == (template == "chatml"), folder
    assert notes == [
        "model.lora: the embeddings are trained as a whole, because the model lacks some tokens (<|im_end|>, "
        "<|im_start|>)"
    ] * (template == "chatml")


def test_adapters_are_gone_on_from_in_a_fork(tiny: Path, tmp_path: Path) -> None:
    run_dir = train_in(recipe_of(tiny, "train.max_steps=2"), tmp_path / "run", world_size=1)
    fork = find_run(run_dir, ["optim.lr=1e-3", "train.max_steps=3"], None, tmp_path / "fork")
    train_in(fork.recipe, fork.run_dir, fork, world_size=1)
    assert [event["step"] for event in events(fork.run_dir, "start", "step")] == [2, 3]
    assert read_base(fork.run_dir / "export" / "last") == read_base(run_dir / "export" / "last")


def test_the_transposed_layers_of_gpt2_are_merged_to_what_they_compute() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=30, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    plain = transformers.GPT2LMHeadModel(config)
    adapted = copy.deepcopy(plain)
    names = tuple(name for name, module in plain.named_modules() if lora.is_linear(module) and name != "lm_head")
    assert len(names) == 8
    options = LoraConfig(r=4, alpha=8)
    lora.adapt(adapted, options, lora.Adapters(names, ()), seed=0)
    matrices = dict(adapted.named_parameters())
    for layer, down, up in lora.adapter_names(matrices):
        torch.nn.init.normal_(matrices[up])
        weight = plain.get_submodule(layer).weight
        weight.data = lora.merge(weight.data, matrices[down], matrices[up], options, is_transposed=True).detach()
    ids = torch.arange(12)[None]
    merged, expected = logits(plain, input_ids=ids), logits(adapted, input_ids=ids)
    assert torch.allclose(merged, expected, atol=1e-3 * float(expected.abs().max()))
    with torch.no_grad():
        weight *= 2
    assert not torch.allclose(logits(plain, input_ids=ids), expected, atol=1e-3 * float(expected.abs().max()))


def write_adapted_run(ranks: Ranks, recipe: Recipe, run_dir: Path) -> None:
    """A checkpoint of adapters that have not learned anything."""
    assert recipe.model.lora is not None
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(recipe.model.path)
    names = tuple(name for name, module in model.named_modules() if name.endswith("_proj"))
    lora.adapt(model, recipe.model.lora, lora.Adapters(names, ()), seed=0)
    keep_model_files(model, load_tokenizer(recipe), run_dir / MODEL)
    ds_config = resolve_ds_config(load_ds_config(recipe.engine.deepspeed), recipe, hidden_size=512)
    engine = DeepSpeedEngine(
        model, ds_config, lambda model: adamw(model, recipe.optim), ranks=ranks, seed=0, keeps_frozen=False
    )
    policy = CheckpointPolicy(
        1, 1, True, "loss", True, "", {"world_size": 1, "zero_stage": 2, "precision": "bf16"}, identify(recipe)
    )
    checkpoints = Checkpoints(
        run_dir / "checkpoints", policy, ranks=ranks, reporter=NullReporter(), newest=0, damaged=[]
    )
    checkpoints.save(engine, TrainState(1), None)
    checkpoints.finish()


def test_a_merged_export_holds_the_model_and_no_more_than_a_shard_besides(tmp_path: Path) -> None:
    write_larger(tmp_path / "model", torch.bfloat16)
    recipe = causal_recipe(tmp_path, "engine.precision=bf16")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    run_ranks(write_adapted_run, recipe, tmp_path / "run", world_size=1)
    ((most, size),) = run_ranks(grow, tmp_path / "run", recipe, 8_000_000, True, world_size=1)
    assert size > 50e6, "a model small enough to hide in"
    assert most < size + 8e6 + 20e6  # what loading a model imports, and some weights in fp32
