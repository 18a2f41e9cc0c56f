"""The exported model is the trained one, and loads with transformers alone; from any checkpoint, on one process."""

import ctypes
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import transformers
from huggingface_hub.repocard import metadata_load
from safetensors.torch import load_file
from torch import Tensor

from shardtune.ds_config.resolve import load_ds_config, resolve_ds_config
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.rows.source import read_rows
from shardtune.run_dir.files import MODEL, RESULTS, is_finished
from shardtune.run_dir.run import Run, write_run_dir
from shardtune.run_dir.view.results import finished_message
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, Checkpoints
from shardtune.trainer.checkpoint.manifest import WEIGHTS, Checkpoint
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.engine.snapshot import SavedTensors
from shardtune.trainer.export.export import Export, main, write_together
from shardtune.trainer.export.weight_files import Piece, WeightFiles
from shardtune.trainer.model.load import keep_model_files
from shardtune.trainer.reporting.reporter import NullReporter
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import RECIPE, STEPS_PER_EPOCH, events, tiny_recipe, train, write_tiny
from tests.support.stops import stop_after
from tests.support.tiny import GOOD, write_causal
from tests.trainer.checkpoint.test_resume import flip_a_bit

SPLIT = "test"


def master_weights(run_dir: Path, step: int) -> dict[str, Tensor]:
    """The fp32 weights of a checkpoint."""
    checkpoint = Checkpoint(run_dir / "checkpoints" / f"step-{step}")
    saved, whole = SavedTensors(checkpoint.files(WEIGHTS)), {}
    for name, shape in checkpoint.manifest.shapes.items():
        whole[name] = torch.empty(tuple(shape))
        saved.read(name, 0, whole[name].view(-1))
    return whole


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_pipeline_of_the_best_model_scores_what_the_run_reported(tiny: Path, tmp_path: Path, stage: int) -> None:
    train(tiny_recipe(tiny, f"engine.deepspeed=zero{stage}", "optim.lr=1e-2"), tmp_path, world_size=2)
    classify: Any = transformers.pipeline("text-classification", model=str(tmp_path / "export" / "best"))
    rows = read_rows(tiny / f"{SPLIT}.jsonl", {})
    found = [answer["label"] for answer in classify([row.values["text"] for row in rows])]
    accuracy = sum(label == row.values["label"] for label, row in zip(found, rows, strict=True)) / len(rows)
    reported = next(event for event in events(tmp_path, "eval") if event["split"] == SPLIT)
    assert accuracy == pytest.approx(reported["accuracy"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory, as the command line makes it, of a finished run of three ranks in bf16."""
    folder = write_tiny(tmp_path_factory.mktemp("finished"))
    (folder / "encoder" / "README.md").write_text("---\nlicense: mit\n---\n# A tiny encoder\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    layout = ("engine.precision=bf16", "engine.deepspeed=zero3", "checkpoint.keep_last=3")
    recipe = tiny_recipe(folder, *layout, "task.class_weights=balanced")
    run = Run(recipe, folder / "run", folder / "recipe.yaml")
    write_run_dir(run)
    train(recipe, run.run_dir, world_size=3)
    return run.run_dir


def test_every_export_is_the_master_weights_cast_once(finished: Path, tmp_path: Path) -> None:
    masters = master_weights(finished, 18)
    cast = {name: weight.bfloat16() for name, weight in masters.items()}
    assert not same({name: weight.float() for name, weight in cast.items()}, masters), "a cast that casts nothing"
    assert same(load_file(finished / "export" / "last" / "model.safetensors"), cast)
    for dtype, expected in (("bf16", cast), ("fp32", masters), ("fp16", {k: v.half() for k, v in masters.items()})):
        out = tmp_path / dtype
        assert main([str(finished), "--step=18", f"--dtype={dtype}", f"--out={out}"]) == 0
        assert same(load_file(out / "model.safetensors"), expected)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(out)
        assert same(dict(model.state_dict()), expected)


def test_without_a_step_the_best_one_is_exported_beside_the_runs_own(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert main([str(finished)]) == 0
    folder = finished / "export" / f"step-{results['best_step']}"
    assert same(load_file(folder / "model.safetensors"), load_file(finished / "export" / "best" / "model.safetensors"))
    assert (folder / "evaluation.json").read_bytes() == (finished / "export" / "best" / "evaluation.json").read_bytes()


def test_every_file_is_readable_by_others_and_the_tokenizer_is_the_trained_ones(finished: Path) -> None:
    folder = finished / "export" / "last"
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}
    assert model.dtype == torch.bfloat16
    assert transformers.AutoTokenizer.from_pretrained(folder)(GOOD[0])["input_ids"][0] == 2


def test_the_model_card_says_what_it_was_trained_on_how_and_to_what(finished: Path) -> None:
    folder = finished / "export" / "best"
    card = (folder / "README.md").read_text(encoding="utf-8")
    head: Any = metadata_load(folder / "README.md")
    assert head["license"] == "mit"
    assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "text-classification")
    results = json.loads((finished / "results.json").read_text())
    told = {
        (result["dataset"]["split"], metric["type"]): metric["value"]
        for result in head["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    assert told["test", "accuracy"] == results["test"]["accuracy"]
    assert told["dev", "accuracy"] == results["dev"]["accuracy"]
    for said in (
        "3 ranks on cpu, ZeRO-3, bf16",
        "| train | train.jsonl | 67 |",
        "lr: 0.003",
        "The loss, on dev and test too, includes task.class_weights (balanced): compare it only",
        "| torch |",
        "curves.svg",
    ):
        assert said in card
    assert str(finished.parent) not in card, "a folder of this machine"
    picture = ElementTree.parse(folder / "curves.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(picture.findall("{http://www.w3.org/2000/svg}svg")) >= 5
    last = (finished / "export" / "last" / "README.md").read_text(encoding="utf-8")
    assert "step 18 of 18" in last
    assert ("| test | accuracy" in last) == (results["best_step"] == 18)


def test_the_line_for_python_that_a_run_ends_with_works_wherever_it_is_pasted(finished: Path) -> None:
    recipe = parse_recipe((finished / "config.yaml").read_text(encoding="utf-8"))
    (line,) = [line for line in finished_message(recipe, finished).splitlines() if line.startswith("in Python")]
    pasted: dict[str, Any] = {}
    exec(line.removeprefix("in Python").strip(), pasted)
    (answer,) = pasted["model"]("a good film")
    assert answer["label"] in json.loads((finished / "facts.json").read_text())["label_names"]


def test_what_cannot_be_exported_is_refused_in_words(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(list(words)) == 2
        return capsys.readouterr().err.strip()

    assert refused(str(tmp_path)) == f"{tmp_path}: not a run directory (no config.yaml)"
    assert "step-5 does not exist; `shardtune checkpoints" in refused(str(finished), "--step=5")
    assert refused(str(finished), f"--out={finished}") == f"--out: {finished} is not empty; give a new folder"
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    flip_a_bit(run_dir / "checkpoints" / "step-18" / "weights-00002-of-00003.safetensors")
    said = refused(str(run_dir), "--step=18")
    assert said.endswith("step-18: weights-00002-of-00003.safetensors is damaged: its checksum differs")
    (run_dir / "checkpoints" / "step-18" / "manifest.json").unlink()
    assert refused(str(run_dir), "--step=18").endswith("step-18: it was never finished")
    shutil.rmtree(run_dir / MODEL)
    assert "model does not exist yet; `shardtune run" in refused(str(run_dir), "--step=12")
    shutil.rmtree(run_dir / "checkpoints")
    assert refused(str(run_dir)) == f"{run_dir}/checkpoints has no complete checkpoint"


def test_every_weight_moved_from_where_it_was_pretrained(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny), tmp_path, world_size=1)
    trained = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "export" / "last").bert
    before = transformers.AutoModel.from_pretrained(tiny / "encoder").state_dict()
    moved = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(before)


def test_a_run_that_has_not_ended_can_be_exported(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tiny), encoding="utf-8")
    run = Run(tiny_recipe(tiny), tmp_path / "run", tmp_path / "recipe.yaml")
    write_run_dir(run)
    train(run.recipe, run.run_dir, world_size=2, before=stop_after(3))
    assert main([str(run.run_dir)]) == 0
    exported = load_file(run.run_dir / "export" / "step-3" / "model.safetensors")
    assert same(exported, master_weights(run.run_dir, 3))


def write_causal_run(ranks: Ranks, recipe: Recipe, encoder: Path, run_dir: Path) -> None:
    """One step of a language model, its checkpoint, and the weights that it has then (not under ZeRO-3)."""
    model = transformers.AutoModelForCausalLM.from_pretrained(encoder, dtype=torch.float32)
    model.model.layers[0].requires_grad_(False)
    model.generation_config.max_new_tokens = 77
    if ranks.is_zero:
        keep_model_files(model, transformers.AutoTokenizer.from_pretrained(encoder), run_dir / MODEL)
    ds_config = resolve_ds_config(load_ds_config(recipe.engine.deepspeed), recipe, hidden_size=32)
    engine = DeepSpeedEngine(model, ds_config, lambda model: adamw(model, recipe.optim), ranks=ranks, seed=0)
    engine.begin_step(0, num_micro_batches=1)
    batch = Batch({"input_ids": torch.tensor([[2, 9, 10, 3]])}, torch.zeros(1))
    engine.backward(engine.forward(batch).logits.float().pow(2).sum(), num_targets=4)
    engine.step(lr=1e-2)
    policy = CheckpointPolicy(1, 1, True, "loss", True, "", {"world_size": 2, "zero_stage": 3, "precision": "fp32"})
    checkpoints = Checkpoints(
        run_dir / "checkpoints", policy, ranks=ranks, reporter=NullReporter(), newest=0, damaged=[]
    )
    checkpoints.save(engine, TrainState(1), None)
    checkpoints.finish()
    if ranks.is_zero and engine.zero_stage < 3:
        torch.save(dict(model.state_dict()), run_dir / "trained.pt")


@pytest.mark.parametrize("stage", [0, 3])
def test_frozen_and_tied_weights_come_along_in_shards(tmp_path: Path, stage: int) -> None:
    write_causal(tmp_path / "pretrained", GOOD)
    recipe = tiny_recipe(tmp_path, f"engine.deepspeed=zero{stage}", f"model.path={tmp_path}/pretrained")
    (tmp_path / "checkpoints").mkdir()
    run_ranks(write_causal_run, recipe, tmp_path / "pretrained", tmp_path)
    (checkpoint,) = (Checkpoint(path) for path in (tmp_path / "checkpoints").glob("step-1"))
    Export(tmp_path, checkpoint, tmp_path / "out", recipe=recipe, max_file_bytes=20_000).write()
    shards = sorted((tmp_path / "out").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    assert all(path.stat().st_size < 24_000 for path in shards)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert {path.name for path in shards} == set(index["weight_map"].values())
    assert "lm_head.weight" not in index["weight_map"], "it is the embedding"
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.max_new_tokens == 77
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pretrained")
    ours, theirs = dict(model.named_parameters()), dict(before.named_parameters())
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]) == name.startswith("model.layers.0."), name
    if stage == 0:
        assert same(dict(model.state_dict()), torch.load(tmp_path / "trained.pt"))


def write_files_together(ranks: Ranks, run_dir: Path, recipe: Recipe) -> list[str]:
    """Exports to `shared` with all ranks; returns the files that this rank wrote."""
    written: list[str] = []
    write = WeightFiles.write

    def noted(self: WeightFiles, piece: Piece, folder: Path) -> None:
        written.extend(piece.files)
        write(self, piece, folder)

    WeightFiles.write = noted  # type: ignore[method-assign]
    checkpoint = Checkpoint(run_dir / "checkpoints" / "step-1")
    exported = Export(run_dir, checkpoint, run_dir / "shared", recipe=recipe, max_file_bytes=20_000)
    write_together([exported], ranks, lambda: False)
    return written


def test_the_ranks_share_the_files_of_an_export(tmp_path: Path) -> None:
    write_causal(tmp_path / "pretrained", GOOD)
    recipe = tiny_recipe(tmp_path, f"model.path={tmp_path}/pretrained")
    (tmp_path / "checkpoints").mkdir()
    run_ranks(write_causal_run, recipe, tmp_path / "pretrained", tmp_path)
    Export(
        tmp_path,
        Checkpoint(tmp_path / "checkpoints" / "step-1"),
        tmp_path / "out",
        recipe=recipe,
        max_file_bytes=20_000,
    ).write()
    by_rank = run_ranks(write_files_together, tmp_path, recipe, world_size=3)
    alone = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "shared").iterdir()} == alone
    assert all(by_rank), "each rank wrote some"
    assert sorted(name for names in by_rank for name in names) == sorted(
        name for name in alone if name.endswith(".safetensors")
    )


def test_a_run_that_is_stopped_in_its_export_is_evaluated_and_not_finished(tiny: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    recipe = tiny_recipe(tiny)
    train(recipe, whole, world_size=2)
    ended, _ = train(recipe, stopped, world_size=2, before=stop_after(3 * STEPS_PER_EPOCH + 1))
    results = json.loads((stopped / RESULTS).read_text())
    assert ended == [False, False] and results["test"] and not is_finished(stopped)
    assert not (stopped / "export" / "best").exists() and events(stopped)[-1]["event"] == "stopped"
    train(recipe, stopped, world_size=2)
    assert is_finished(stopped)
    assert json.loads((stopped / RESULTS).read_text()) == json.loads((whole / RESULTS).read_text())
    assert same(
        load_file(stopped / "export/best/model.safetensors"), load_file(whole / "export/best/model.safetensors")
    )


def test_a_last_model_that_is_the_best_is_written_once(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny, "train.max_steps=2", "data.dev=null", "data.test=null"), tmp_path, world_size=2)
    best, last = tmp_path / "export" / "best", tmp_path / "export" / "last"
    assert {path.name for path in best.iterdir()} == {path.name for path in last.iterdir()}
    linked = {path.name for path in best.iterdir() if path.samefile(last / path.name)}
    assert linked == {"model.safetensors"}, "people edit the small files"


def grow(_: Ranks, run_dir: Path, recipe: Recipe, size: int, merge_lora: bool = False) -> tuple[int, int]:
    """Exports in bf16; how many bytes the process had more than before, at most, and the size of the model."""
    ctypes.CDLL(None).malloc_trim(0)  # or what others have freed would be used again without being seen
    before, most, done = anonymous_bytes(), 0, False

    def watch() -> None:
        nonlocal most
        while not done:
            most = max(most, anonymous_bytes() - before)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    checkpoint = Checkpoint(run_dir / "checkpoints" / "step-1")
    how: Any = {"dtype": "bf16", "max_file_bytes": size, "merge_lora": merge_lora}
    Export(run_dir, checkpoint, run_dir / "out", recipe=recipe, **how).write()
    done = True
    watcher.join()
    return most, sum(path.stat().st_size for path in (run_dir / "out").glob("*.safetensors"))


def anonymous_bytes() -> int:
    """Resident memory that is not a file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def write_larger(folder: Path, dtype: torch.dtype) -> None:
    """A causal model of more than 50 MB in bf16."""
    write_causal(folder, GOOD)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.head_dim = 512, 1024, 12, 256
    transformers.AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)


def test_an_export_holds_the_weights_of_one_file(tmp_path: Path) -> None:
    """In bf16, from a checkpoint of three times 4 bytes a parameter."""
    write_larger(tmp_path / "pretrained", torch.float32)
    recipe = tiny_recipe(tmp_path, "engine.deepspeed=zero2", f"model.path={tmp_path}/pretrained")
    (tmp_path / "checkpoints").mkdir()
    run_ranks(write_causal_run, recipe, tmp_path / "pretrained", tmp_path)
    ((most, size),) = run_ranks(grow, tmp_path, recipe, 8_000_000, world_size=1)
    assert size > 50e6, "a model small enough to hide in"
    assert most < 8e6 + 16e6
