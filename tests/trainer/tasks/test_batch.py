"""A batch knows where its targets are: in the order of a mask, with the same values and gradients bit for bit."""

import math

import pytest
import torch
from torch import Tensor

from shardtune.trainer.tasks.batch import TARGET_INPUTS, Batch
from shardtune.trainer.tasks.example import IGNORED

LABELS = {
    "of rows": torch.tensor([3, IGNORED, 0, 7]),
    "of tokens": torch.tensor([[IGNORED, 5, 6], [7, IGNORED, IGNORED]]),
    "numbers": torch.tensor([0.5, math.nan, IGNORED, 0.0]),
    "none": torch.full((2, 3), IGNORED),
}


@pytest.mark.parametrize("name", LABELS)
def test_what_is_selected_is_what_a_mask_selects(name: str) -> None:
    batch = Batch({}, LABELS[name])
    mask = batch.targets
    hidden = torch.randn(*mask.shape, 9, dtype=torch.bfloat16)
    found, expected = (hidden.clone().requires_grad_() for _ in range(2))
    for selected in (batch.of_targets(found), expected[mask]):
        assert selected.shape == (int(mask.sum()), 9)
        torch.testing.assert_close(selected, hidden[mask], rtol=0, atol=0)
        selected.float().square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=0)
    assert batch.num_targets == mask.sum() == len(batch.positions)


def test_a_model_with_target_loss_gets_label_position_and_weight_of_each_target() -> None:
    labels, weights = LABELS["of tokens"], torch.tensor([[9.0, 0.5, 1], [2, 9, 9]])
    batch = Batch({"input_ids": labels, "longest": 3}, labels, weights).with_target_inputs()
    assert [batch.inputs[name].tolist() for name in TARGET_INPUTS] == [[5, 6, 7], [1, 2, 3], [0.5, 1, 2]]
    assert batch.num_targets == 3.5
    assert batch.plain_inputs.keys() == {"input_ids", "longest"}
    muted = batch.muted()
    assert [len(muted.inputs[name]) for name in TARGET_INPUTS] == [0, 0, 0]
    assert muted.num_targets == 0 and batch.num_targets == 3.5


def test_a_moved_batch_does_not_look_for_its_targets_again() -> None:
    def forget(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="meta")

    moved = Batch({"input_ids": LABELS["of tokens"]}, LABELS["of tokens"]).with_target_inputs().mapped(forget)
    assert {tensor.device.type for tensor in (moved.labels, moved.positions, *moved.inputs.values())} == {"meta"}
    assert moved.positions is moved.inputs["target_positions"], "or it would be copied twice"
    assert (moved.num_targets, moved.of_targets(moved.labels).shape) == (3, (3,))
