"""What the check of a GPU machine decides: what is measured, in which order, and what a measurement has to be."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from benchmarks.gpu import models, shapes, speed
from benchmarks.gpu.__main__ import write
from benchmarks.gpu.bench import Bench, Outcome, Part, render, run_parts
from benchmarks.gpu.losses import REFERENCE, Layout, Training, _train_all, difference, summarize, trainings
from benchmarks.gpu.rows import ROWS, cut_sequences
from benchmarks.gpu.trace import Counts, count, idle_share, separate
from benchmarks.gpu.trainer_side import collate
from benchmarks.gpu.training import Left, Place, StopAfter, _memory_limit
from benchmarks.gpu.variants import legal_values, variants
from benchmarks.gpu.workers import JobFailed, Workers

WITH_ALL = {
    "properties": {
        "model": {"$ref": "#/$defs/ModelConfig"},
        "engine": {"$ref": "#/$defs/EngineConfig"},
    },
    "$defs": {
        "ModelConfig": {"properties": {"attention": {"enum": ["auto", "sdpa", "varlen", "flash_attention_2"]}}},
        "EngineConfig": {
            "properties": {
                "compile": {"enum": ["off", "regional", "full"]},
                "kernels": {"anyOf": [{"enum": ["auto", "liger", "torch"]}, {"type": "null"}]},
            }
        },
    },
}
"""The schema of a version with every key."""
TODAY_AS_EVER = {
    "properties": {"model": {"properties": {"attention": {"enum": ["auto", "sdpa", "flash_attention_2"]}}}},
}


def bench_of(folder: Path, *, minutes: float = 1.0) -> Bench:
    return Bench("cpu", True, folder, Workers("cpu", folder), ends_at=time.monotonic() + 60 * minutes)


def test_the_schema_says_which_variants_there_are() -> None:
    eager, varlen, compiled, liger = variants(["liger_kernel"], WITH_ALL)
    off = {"engine.compile": "off", "engine.kernels": "torch"}
    assert eager.keys == {"model.attention": "sdpa", **off}
    assert varlen.keys == {"model.attention": "varlen", **off}
    assert compiled.keys == {**varlen.keys, "engine.compile": "regional"}
    assert liger.keys == {**varlen.keys, "engine.kernels": "liger"}
    assert {each.missing for each in (eager, varlen, compiled, liger)} == {None}
    assert liger.of_trainer == {"attention": "varlen", "compile": False, "liger": True}

    assert variants([], WITH_ALL)[3].missing == "liger_kernel is not installed"
    older = variants(["flash_attn"], TODAY_AS_EVER)
    assert [each.missing for each in older] == [None, None, "not in this version", "not in this version"]
    assert older[1].keys == {"model.attention": "flash_attention_2"}
    assert variants([], TODAY_AS_EVER)[1].missing == "not in this version"


def test_the_legal_values_are_those_of_the_recipe() -> None:
    assert {"auto", "eager", "sdpa"} <= set(legal_values("model.attention"))
    assert legal_values("engine.precision") == ("auto", "bf16", "fp16", "fp32")
    assert legal_values("engine.no_such_key") == ()


def test_what_the_marks_are_about_is_measured_first() -> None:
    todo = speed.measurements(variants(["liger_kernel"], WITH_ALL), is_gpu=True, has_trainer=True)
    assert [str(each) for each in todo[:4]] == [
        "8B LoRA, + varlen, shardtune",
        "8B LoRA, + varlen, Trainer",
        "1B full, + varlen, shardtune",
        "1B full, + varlen, Trainer",
    ]
    assert len({str(each) for each in todo}) == len(todo)
    assert {str(each) for each in todo} >= {
        f"{model}, {name}, {side}"
        for model in ("8B LoRA", "1B full")
        for name in ("eager", "+ varlen", "+ compile", "+ liger")
        for side in ("shardtune", "Trainer")
    }
    assert "8B full, + varlen, shardtune" in map(str, todo)
    first = speed.measurements(variants([], TODAY_AS_EVER), is_gpu=True, has_trainer=False)
    assert str(first[0]) == "8B LoRA, eager, shardtune" and not [each for each in first if each.side == speed.TRAINER]


def measured(*, tokens_per_s: float, mfu: float = 0.5, losses: tuple[float, ...] = (3.0, 2.0)) -> dict[str, Any]:
    return {"tokens_per_s": tokens_per_s, "mfu": mfu, "losses": list(losses)}


def test_the_marks_hold_on_the_gpus_that_they_are_for() -> None:
    ours = speed.measurements(variants([], WITH_ALL), is_gpu=True, has_trainer=True)
    lora, trainer, full = ours[:3]
    slow = {
        lora: measured(tokens_per_s=12_000),
        trainer: measured(tokens_per_s=10_000),
        full: measured(tokens_per_s=1, mfu=0.4),
    }
    failed, shown = Outcome(), Outcome()
    speed.judge(slow, "NVIDIA H200", failed)
    assert [text.rpartition(" is ")[0].partition(":")[0] for text in failed.failures] == [
        "8B LoRA, tokens_per_s",
        "1B full, mfu",
        "8B LoRA, + varlen, times transformers.Trainer",
    ]
    speed.judge(slow, "NVIDIA A100-SXM4-80GB", shown)
    speed.judge(slow, "NVIDIA H100 PCIe", shown)
    assert shown.failures == [] and shown.data["marks"]["1B full, mfu"] == {
        "value": 0.4,
        "mark": 0.45,
        "is_compared": False,
    }
    fast = {
        lora: measured(tokens_per_s=13_100),
        trainer: measured(tokens_per_s=10_000),
        full: measured(tokens_per_s=1, mfu=0.46),
    }
    passed = Outcome()
    speed.judge(fast, "NVIDIA H100 80GB HBM3", passed)
    assert passed.failures == []


def test_a_loss_of_other_kernels_is_compared_with_the_first() -> None:
    one, other = speed.measurements(variants([], WITH_ALL), is_gpu=True, has_trainer=True)[:2]
    outcome = Outcome()
    wrong = {one: measured(tokens_per_s=2), other: measured(tokens_per_s=1, losses=(3.0, 2.1))}
    speed.judge(wrong, "NVIDIA A100", outcome)
    assert outcome.failures == ["8B LoRA, + varlen, Trainer: a loss is off by 5.0e-02 of 2e-02"]


@pytest.mark.parametrize(
    "shape", [shapes.TINY, shapes.MEDIUM, shapes.LLAMA_1B, shapes.LLAMA_8B], ids=lambda shape: shape.name
)
def test_a_shape_has_the_size_that_it_is_said_to_have(shape: shapes.Shape) -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape.config))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(shape.num_parameters, rel=0.02)
    assert shape.num_sequences % shape.at_once == 0
    assert [sum(sequence) for sequence in shapes.sequences_of(shape)] == [shape.max_tokens] * shape.num_sequences


def test_documents_fill_their_sequences() -> None:
    sequences = cut_sequences(8, 4096)
    assert [sum(lengths) for lengths in sequences] == [4096] * 8
    assert min(map(min, sequences)) == 256 and len({tuple(lengths) for lengths in sequences}) > 1


def test_a_gpu_trains_every_task_on_every_layout() -> None:
    todo = trainings("cuda", is_tiny=False)
    full = {(each.task, str(each.layout)) for each in todo if not each.is_lora}
    strategies = ("null", "zero0", "zero1", "zero2", "zero3")
    layouts = {f"cuda {precision} {strategy}" for precision in ("fp32", "bf16") for strategy in strategies}
    assert full == {(task, layout) for task in ROWS for layout in {*layouts, "cpu fp32 null"}}
    assert {each.task for each in todo if each.is_lora} == set(ROWS)
    assert [str(each.layout) for each in todo[:12]] == ["cpu fp32 null"] * 12, "the references come first"
    assert {str(each.layout) for each in todo[12:24]} == {"cuda fp32 null", "cuda bf16 null"}


def test_a_loss_that_is_off_fails_and_one_that_is_missing_is_named() -> None:
    reference = Training("causal", False, REFERENCE)
    off, late = (Training("causal", False, Layout("cuda", "fp32", strategy)) for strategy in (None, "zero3"))
    outcome = Outcome()
    summarize([reference, off, late], {reference: [2.0, 1.0], off: [2.0, 1.002]}, outcome)
    assert outcome.failures == ["causal on cuda fp32 null: a loss is off by 2.0e-03 of 1e-03"]
    assert outcome.skipped == ["causal on cuda fp32 zero3"]


def test_a_process_that_dies_ends_its_trainings_and_not_those_of_others(tmp_path: Path) -> None:
    class Dead:
        is_alive = False
        num_jobs = 0

        def do(self, job: str, **_: Any) -> dict[str, Any]:
            self.num_jobs += 1
            raise JobFailed("the process ended with code -11")

    dead, outcome = Dead(), Outcome()
    bench = bench_of(tmp_path)
    bench.part_ends_at = bench.ends_at
    _train_all(bench, dead, trainings("cpu", is_tiny=True), {}, outcome)  # type: ignore[arg-type]
    assert dead.num_jobs == 1
    assert outcome.failures == ["classification on cpu fp32 null: the process ended with code -11"]


@pytest.mark.parametrize("losses", [[], [2.0], [2.0, None], [2.0, float("nan")]])
def test_losses_that_are_missing_or_no_numbers_are_no_small_difference(losses: list[float | None]) -> None:
    assert not difference(losses, [2.0, 1.0]) <= 1e9


def event(name: str, category: str, begin: float, duration: float) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": category, "ts": begin, "dur": duration}


def test_a_trace_is_counted() -> None:
    counts = count(
        [
            event("cudaStreamSynchronize", "cuda_runtime", 0, 1),
            event("cudaStreamSynchronize", "cuda_runtime", 5, 1),
            event("cudaMemcpyAsync", "cuda_runtime", 5, 1),
            event("aten::embedding", "cpu_op", 1, 1),
            event("gemm", "kernel", 10, 4),
            event("gemm on another stream", "kernel", 12, 4),
            event("copy", "gpu_memcpy", 18, 2),
            {"ph": "i", "name": "cudaStreamSynchronize"},
        ]
    )
    assert counts.waits["cudaStreamSynchronize"] == 2 and counts.waits["cudaMemcpy"] == 0
    assert counts.num_lookups == 1
    assert counts.idle_share == pytest.approx(0.2), "2 of 10"
    assert idle_share([]) is None


def test_the_waits_of_a_micro_batch_are_told_from_those_of_a_step() -> None:
    one = Counts({"cudaStreamSynchronize": 2 * (3 + 5)}, num_lookups=2, idle_share=None)
    several = Counts({"cudaStreamSynchronize": 2 * (4 * 3 + 5)}, num_lookups=8, idle_share=None)
    waits = separate(one, several, num_steps=2)
    assert waits.num_micro_batches == 4
    assert waits.per_micro_batch == {"cudaStreamSynchronize": 3} and waits.per_step == {"cudaStreamSynchronize": 5}


def test_packed_rows_of_the_trainer_say_where_documents_begin() -> None:
    items = [
        {"input_ids": [5, 6, 7], "shift_labels": [6, 3, 3], "position_ids": [0, 1, 0]},
        {"input_ids": [8, 9, 5], "shift_labels": [9, 5, 3], "position_ids": [0, 1, 2]},
    ]
    flat = collate(items, is_flat=True)
    assert isinstance(flat["cu_seq_lens_q"], torch.Tensor) and flat["cu_seq_lens_q"].tolist() == [0, 2, 3, 6]
    assert flat["max_length_k"] == 3
    rows = collate(items, is_flat=False)
    assert isinstance(rows["input_ids"], torch.Tensor) and rows["input_ids"].shape == (2, 3)
    assert "cu_seq_lens_q" not in rows


def test_parts_share_the_time_and_what_is_too_late_is_skipped(tmp_path: Path) -> None:
    ends = {}

    def note(bench: Bench, outcome: Outcome) -> None:
        ends[len(ends)] = bench.left_s
        outcome.data = {"left": bench.left_s}

    def fail(bench: Bench, outcome: Outcome) -> None:
        outcome.lines.append("half of it")
        raise ValueError("a fault")

    parts = [Part("a", "first", 0.25, note), Part("b", "second", 0.25, fail), Part("c", "third", 0.5, note)]
    outcomes = [outcome for _, outcome in run_parts(bench_of(tmp_path), parts)]
    assert [outcome.status for outcome in outcomes] == ["passed", "error", "passed"]
    assert 14 < ends[0] < 15 < 59 < ends[1] < 60, "what the others leave is the third part's"
    shown = render(parts[1], outcomes[1])
    assert "half of it" in shown and "ValueError: a fault" in shown

    late = list(run_parts(bench_of(tmp_path, minutes=-1), parts))
    assert [outcome.status for _, outcome in late] == ["skipped"] * 3
    assert "not measured: the time of this part is used up" in render(*late[0])


def test_the_json_has_no_number_that_json_lacks(tmp_path: Path) -> None:
    write(tmp_path / "new" / "check.json", {"a": [1.0, float("inf")], "b": {"c": float("nan"), "d": None}})
    assert json.loads((tmp_path / "new" / "check.json").read_text()) == {"a": [1.0, None], "b": {"c": None, "d": None}}


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_weights_of_a_shape_are_whole_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_tied: bool
) -> None:
    monkeypatch.setattr(models, "FILE_BYTES", 40_000)
    config = {**shapes.TINY.config, "tie_word_embeddings": is_tied}
    num_bytes = models.write_llama(tmp_path / "model", config, longest=256, device="cpu")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    model, info = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.bfloat16, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert num_bytes == 2 * sum(parameter.numel() for parameter in model.parameters())
    assert model.model.embed_tokens.weight.detach().float().std().item() == pytest.approx(0.02, rel=0.1)
    assert bool((model.model.norm.weight == 1).all())


def test_a_training_is_asked_to_stop_at_its_step_and_left_after_it(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    asked = StopAfter(tmp_path, stop_after=3, leave_after=None)
    left = StopAfter(tmp_path, stop_after=None, leave_after=3)
    assert not asked.requested and not left.requested
    metrics.write_text('{"event": "start"}\n{"event": "step", "step": 1}\n{"event": "st', encoding="utf-8")
    assert not asked.requested
    with metrics.open("a", encoding="utf-8") as file:
        file.write('ep", "step": 2}\n')
    assert asked.requested and not left.requested, "the third step is being done"
    with metrics.open("a", encoding="utf-8") as file:
        file.write('{"event": "step", "step": 3}\n')
    with pytest.raises(Left):
        _ = left.requested


def test_a_gpu_has_less_memory_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("", (), {"total_memory": 1000}))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 100)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    with _memory_limit(Place("cuda"), 150):
        assert fractions == [0.25]
    assert fractions == [0.25, 1.0]
