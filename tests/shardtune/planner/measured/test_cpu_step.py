"""The time of a step is the sum of its operations' measured times: by hand for a model of one layer."""

from dataclasses import replace

import pytest

from shardtune.planner.hardware import CPU, memory_only
from shardtune.planner.job import Adapters, Batch, Cluster, Job, Software, States
from shardtune.planner.measured.calibration import Computing, CpuLayout, WholePass
from shardtune.planner.measured.cpu_step import cpu_step_time, micro_batch, num_trained_tensors
from shardtune.planner.model_shape import Layers, ModelShape
from tests.support.calibrations import ELEMENT_S, QUERY_S, RATE, TENSOR_S, UPDATE_S, computing

LAYERS = Layers(num=1, hidden=64, num_heads=2, num_kv_heads=2, head_size=32, mlp_width=256, is_gated=False,
                is_causal=False, norms=2, is_rms_norm=False)  # fmt: skip
SHAPE = ModelShape(
    name="one", stacks=(LAYERS,), hidden=64, vocabulary=1000, embeddings=64_000, end_norms=1, num_labels=2
)
TOKENS = 4 * 128
JOB = Job(
    shape=SHAPE,
    states=States(),
    software=Software(),
    batch=Batch(rows=4, tokens=128, losses=1 / 128),
    cluster=Cluster(gpu=memory_only(CPU, 0.0), gpus_per_node=2),
    precision="fp32",
)
MATRICES = (4 * 64 * 64 + 2 * 64 * 256) * TOKENS / RATE
HEAD = 4 * 64 * 2 / RATE
ATTENTION = TOKENS * 2 * QUERY_S


def seconds(job: Job = JOB, found: Computing | None = None) -> tuple[float, float]:
    passed = micro_batch(job, found or computing())
    return passed.forward.total, passed.backward.total


def test_a_layer_is_its_products_its_attention_and_its_elements() -> None:
    hidden, mlp = 64 * TOKENS, 256 * TOKENS
    # Norms and residuals of the layer, its activation; three tables, two additions and a norm in front of it.
    forward = (2 + 2 + 3 + 2 + 1) * hidden + mlp
    biases = (64 + 2 * 64 + 2 * 64) * TOKENS + mlp
    backward = (2 + 4 + 3 + 1) * hidden + mlp + biases
    below, above = seconds()
    assert below == pytest.approx(MATRICES + HEAD + ATTENTION + forward * ELEMENT_S)
    # The gradient of a table of 1,000 words is written once, which is half of what scaling it takes.
    table = 0.5 * 64_000 * ELEMENT_S
    assert above == pytest.approx(2 * (MATRICES + HEAD) + 2 * ATTENTION + 2 * backward * ELEMENT_S + table)


def test_frozen_weights_have_no_gradient_and_adapters_have_products_of_their_own() -> None:
    adapted = replace(JOB, adapters=Adapters(rank=8))
    assert seconds(adapted)[0] > seconds()[0]
    assert seconds(adapted)[1] < seconds()[1]
    assert num_trained_tensors(adapted) == 14 and num_trained_tensors(JOB) == 2 + (6 + 2) * 2


def test_a_recomputed_layer_runs_forward_twice() -> None:
    ends = seconds(replace(JOB, shape=replace(SHAPE, stacks=(replace(LAYERS, num=0),))))
    again = seconds(replace(JOB, software=Software(activation_checkpointing=True)))
    assert again[1] - seconds()[1] == pytest.approx(seconds()[0] - ends[0])


def test_dropout_takes_time_in_both_directions() -> None:
    dropped = seconds(replace(JOB, software=Software(dropout=True)))
    hidden = 64 * TOKENS
    assert dropped[0] - seconds()[0] == pytest.approx(3 * hidden * ELEMENT_S)
    assert dropped[1] - seconds()[1] == pytest.approx(6 * hidden * ELEMENT_S)


def test_whole_passes_take_a_factor_and_calls_more() -> None:
    slower = replace(computing(), passes={"encoder": WholePass(1.5, 0.01)})
    below, above = seconds()
    assert sum(seconds(found=slower)) == pytest.approx(1.5 * (below + above) + 0.01)


def step(job: Job = JOB, *, speed: float = 1.0) -> float:
    layout = CpuLayout(2, 1, {"fp32": computing(speed=speed)}, 1e10, None)
    found = cpu_step_time(job, layout, "null")
    assert found is not None
    return found.total_s


def test_a_step_adds_what_the_engine_takes() -> None:
    once = SHAPE.num_parameters * UPDATE_S + num_trained_tensors(JOB) * TENSOR_S
    assert step() == pytest.approx(sum(seconds()) + once)
    thrice = replace(JOB, batch=replace(JOB.batch, num_micro_batches=3))
    more = 2 * (sum(seconds()) + SHAPE.num_parameters * 0.1 * UPDATE_S + num_trained_tensors(JOB) * TENSOR_S)
    assert step(thrice) == pytest.approx(step() + more)


def test_a_machine_that_is_twice_as_fast_takes_half_as_long() -> None:
    assert step(speed=2.0) == pytest.approx(step() / 2)


def test_what_was_not_measured_has_no_time() -> None:
    layout = CpuLayout(2, 1, {"fp32": replace(computing(), engines={})}, 1e10, None)
    assert cpu_step_time(JOB, layout, "null") is None
    assert cpu_step_time(replace(JOB, precision="bf16"), layout, "null") is None
