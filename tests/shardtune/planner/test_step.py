"""Laws of the planner's memory and time, which hold for any constants."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.planner.memory import LLAMA_3_8B
from shardtune.planner.constants import DEFAULTS
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Adapters, Batch, Cluster, Job, Software, States, adapter_parameters
from shardtune.planner.memory import gpu_memory, held_states
from shardtune.planner.model_shape import shape_of_config
from shardtune.planner.network import Traffic, collective_seconds, step_traffic
from shardtune.planner.schedule import model_operations, step_time

ZERO2 = States(shards_optimizer=True, shards_gradients=True, all_reduces=True, bucket=2e7, num_buckets=2)
JOB = Job(
    shape=LLAMA_3_8B,
    states=ZERO2,
    software=Software(),
    batch=Batch(rows=1, tokens=4096),
    cluster=Cluster(gpu=find_gpu("h100")),
)


def test_the_peak_is_at_the_end_of_the_backward_pass_if_activations_are_recomputed() -> None:
    on_one = replace(JOB, states=States(gradient=2, master=0, moments=4), cluster=replace(JOB.cluster, gpus_per_node=1))
    assert gpu_memory(on_one).peak_instant == "gradient of the loss"
    lean = replace(
        on_one, software=replace(JOB.software, activation_checkpointing=True), batch=Batch(rows=1, tokens=512)
    )
    assert gpu_memory(lean).peak_instant == "end of backward"


@pytest.mark.parametrize("change", ["checkpointing", "more ranks", "adapters", "fused"])
def test_what_saves_memory_saves_memory(change: str) -> None:
    other = {
        "checkpointing": replace(JOB, software=replace(JOB.software, activation_checkpointing=True)),
        "more ranks": replace(JOB, cluster=replace(JOB.cluster, num_nodes=2)),
        "adapters": replace(JOB, adapters=Adapters(rank=8)),
        "fused": replace(JOB, software=replace(JOB.software, fused=frozenset({"norm", "mlp"}))),
    }[change]
    assert gpu_memory(other).allocated < gpu_memory(JOB).allocated


def test_a_comparison_with_the_base_takes_its_weights_once_more_and_a_second_forward_pass() -> None:
    copied, asked = replace(JOB, copies_base=True), replace(JOB, asks_base=True)
    assert gpu_memory(copied).allocated - gpu_memory(JOB).allocated == 2 * LLAMA_3_8B.num_parameters
    assert gpu_memory(asked).allocated == gpu_memory(JOB).allocated
    before, after = step_time(JOB), step_time(asked)
    assert after.compute_s - before.compute_s == pytest.approx(before.forward.total)


def test_a_base_in_4_bits_holds_a_quarter_of_the_layers() -> None:
    whole = replace(JOB, adapters=Adapters(rank=8))
    quantized = replace(JOB, adapters=Adapters(rank=8, base="nf4"))
    layers = sum(stack.num * stack.matrices for stack in LLAMA_3_8B.stacks)
    saved = held_states(whole)["weights"] - held_states(quantized)["weights"]
    assert saved == pytest.approx((2 - 4.127 / 8) * layers, rel=1e-4)


@pytest.mark.parametrize("base", ["nf4", "int8"])
def test_restoring_weights_takes_time_and_saves_memory(base: Any) -> None:
    whole, quantized = (replace(JOB, adapters=Adapters(rank=8, base=each)) for each in ("none", base))
    again = replace(quantized, software=replace(JOB.software, activation_checkpointing=True))
    assert gpu_memory(quantized).allocated < gpu_memory(whole).allocated
    layers = sum(stack.num * stack.separate for stack in LLAMA_3_8B.stacks)
    bandwidth = JOB.cluster.gpu.bandwidth_gb_s * 1e9 * DEFAULTS.bandwidth
    once = layers * {"nf4": 2.5, "int8": 11}[base] / bandwidth
    added = [step_time(one).compute_s - step_time(whole).compute_s for one in (quantized, again)]
    assert added[0] == pytest.approx(2 * once * JOB.batch.num_micro_batches, rel=0.02)
    checkpointing = step_time(replace(again, adapters=whole.adapters)).compute_s - step_time(whole).compute_s
    assert added[1] - checkpointing == pytest.approx(3 * once * JOB.batch.num_micro_batches, rel=0.02)


def test_moments_in_bf16_take_half_and_their_update_more_time() -> None:
    rounded = replace(JOB, states=replace(JOB.states, moments=4, rounds_moments=True))
    fp32, bf16 = (held_states(job)["optimizer states"] for job in (JOB, rounded))
    assert bf16 == fp32 / 2
    assert step_time(rounded).update_s > 2 * step_time(JOB).update_s


def test_adapters_have_rank_times_inputs_and_outputs() -> None:
    per_layer = 4096 + 4096 + 4096 + 1024 + 4096 + 1024 + 4096 + 4096 + 3 * (4096 + 14336)
    assert adapter_parameters(LLAMA_3_8B, Adapters(rank=16)) == 32 * 16 * per_layer
    attention = 4096 + 4096 + 4096 + 1024
    assert adapter_parameters(LLAMA_3_8B, Adapters(rank=8, on_mlp=False, on_all_attention=False)) == 32 * 8 * attention


def test_windows_and_packing_leave_out_pairs_of_tokens() -> None:
    packed = replace(JOB, batch=replace(JOB.batch, attended=512))
    pairs = 12 * LLAMA_3_8B.num_layers * 4096 * 4096
    assert model_operations(JOB) - model_operations(packed) == pytest.approx(pairs * (4096 - 512) / 2)
    assert step_time(packed).compute_s < step_time(JOB).compute_s


def test_a_slower_gpu_or_network_takes_longer() -> None:
    assert step_time(replace(JOB, cluster=Cluster(gpu=find_gpu("a100")))).total_s > step_time(JOB).total_s
    many = replace(JOB, cluster=Cluster(gpu=find_gpu("h100"), num_nodes=8))
    slow = replace(many, cluster=replace(many.cluster, network_gb_s=12.5))
    assert step_time(slow).total_s > 2 * step_time(many).total_s


def test_a_collective_takes_its_volume_over_the_slowest_link() -> None:
    cluster = Cluster(gpu=find_gpu("h100"), num_nodes=2)
    seconds = collective_seconds(Traffic("", 0, 400e9), cluster, DEFAULTS)
    assert seconds == pytest.approx(400e9 * 15 / 16 / (450e9 * DEFAULTS.link))
    seconds = collective_seconds(Traffic("", 0, 400e9, passes=2), replace(cluster, network_gb_s=50), DEFAULTS)
    assert seconds == pytest.approx(2 * 400e9 / 2 / (50e9 * DEFAULTS.link))
    assert collective_seconds(Traffic("", 1, 1e9), Cluster(gpu=find_gpu("h100"), gpus_per_node=1), DEFAULTS) == 0


def test_an_encoder_decoder_and_experts_can_be_planned() -> None:
    t5 = {"model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
    shape = shape_of_config({**t5, "vocab_size": 32128})
    job = replace(JOB, shape=shape, batch=Batch(rows=8, tokens=128, target_tokens=100))
    assert 0 < step_time(job).total_s < 1
    assert gpu_memory(job).allocated > 0
    sizes = {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 1000}
    mixtral = {"model_type": "mixtral", **sizes, "intermediate_size": 2048, "num_experts_per_tok": 2}
    few, many = (shape_of_config({**mixtral, "num_local_experts": number}) for number in (2, 8))
    assert many.num_active - few.num_active == 4 * 6 * 1024  # the router's rows
    assert model_operations(replace(JOB, shape=many)) == model_operations(replace(JOB, shape=few))
    # Experts are one kernel and have no adapters, so that their number costs little but memory.
    assert step_time(replace(JOB, shape=many)).compute_s < 2 * step_time(replace(JOB, shape=few)).compute_s
    assert adapter_parameters(many, Adapters(rank=4)) == adapter_parameters(few, Adapters(rank=4))


@pytest.mark.parametrize("adapters", [None, Adapters(rank=8)])
def test_with_a_second_copy_on_each_node_other_nodes_are_asked_once_a_step(adapters: Adapters | None) -> None:
    states = States(shards_optimizer=True, shards_gradients=True, shards_weights=True, secondary=8)
    batch = Batch(rows=1, tokens=4096, num_micro_batches=4)
    job = replace(JOB, states=states, batch=batch, adapters=adapters, cluster=replace(JOB.cluster, num_nodes=4))
    without = replace(job, states=replace(states, secondary=1))
    sent = {traffic.name: traffic for traffic in step_traffic(job)}
    (alone,) = (traffic for traffic in step_traffic(without) if traffic.name == "gather weights")
    near, far = sent["gather within the node"], sent["gather weights"]
    assert far.num_bytes == 2 * job.num_trained
    assert near.num_bytes + far.num_bytes == alone.num_bytes
    assert (near.ranks, far.ranks) == (8, None)
    one_node = replace(job.cluster, num_nodes=1)
    assert collective_seconds(near, job.cluster, DEFAULTS) == collective_seconds(near, one_node, DEFAULTS)
    assert step_time(job).total_s < step_time(without).total_s
    copy = held_states(job)["second copy of weights"]
    assert copy == pytest.approx(held_states(without)["weights"] * without.cluster.world_size / 8)
    assert gpu_memory(job).allocated == pytest.approx(gpu_memory(without).allocated + copy)
