"""Blended weights in closed form: every tensor between its two ends, and what the base has not as it was tuned."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from shardtune.errors import CheckpointError
from shardtune.trainer.export.blended.base_tensors import BaseModel
from shardtune.trainer.export.blended.weights import Blend, TunedWeights

BASE = {"embed": torch.tensor([[1.0, 2], [3, 4], [5, 6]]), "layer": torch.tensor([8.0, -2])}
TUNED = {
    "embed": torch.tensor([[3.0, 2], [3, 0], [7, 7], [9, 9]]),
    "layer": torch.tensor([4.0, 2]),
    "head": torch.tensor([0.5]),
    "count": torch.tensor([7]),
    "scale": torch.tensor(3.0),
}


def base_model(*new_tokens: int, **tensors: Tensor) -> BaseModel:
    known = {**BASE, "scale": torch.tensor(1.0), **tensors}
    return BaseModel(frozenset({"head"}), frozenset({"embed"}), new_tokens, 3, known.__getitem__)


def blended(folder: Path, alpha: float, base: BaseModel | None, tuned: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that holds `tuned`, at this alpha."""
    (folder / "tuned").mkdir(exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    save_file(tuned, folder / "tuned" / "model.safetensors", {"format": "pt"})
    TunedWeights(folder / "tuned").write(folder / "out", Blend(alpha, base))
    with safe_open(folder / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    return load_file(folder / "out" / "model.safetensors")


def test_half_way_is_the_mean_and_an_added_token_keeps_its_embedding(tmp_path: Path) -> None:
    found = blended(tmp_path, 0.5, base_model(3), TUNED)
    assert found["layer"].tolist() == [6, 0]
    assert found["embed"].tolist() == [[2, 2], [3, 2], [6, 6.5], [9, 9]]
    assert (found["head"].tolist(), found["count"].tolist(), found["scale"].item()) == ([0.5], [7], 2)


def test_a_token_that_took_a_free_row_of_the_base_keeps_its_embedding_too(tmp_path: Path) -> None:
    found = blended(tmp_path, 0.25, base_model(2, 3), TUNED)
    assert found["embed"].tolist() == [[1.5, 2], [3, 3], [7, 7], [9, 9]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_ends_are_exact_and_between_them_is_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base, tuned = torch.randn(100), torch.randn(100).to(dtype)
    model = base_model(layer=base)
    assert torch.equal(blended(tmp_path, 0.0, model, {"layer": tuned})["layer"], base.to(dtype))
    assert torch.equal(blended(tmp_path, 1.0, model, {"layer": tuned})["layer"], tuned)
    found = blended(tmp_path, 0.3, model, {"layer": tuned})["layer"]
    assert found.dtype == dtype
    exact = base.double() + 0.3 * (tuned.double() - base.double())
    assert torch.equal(found, exact.float().to(dtype)) or torch.allclose(found.double(), exact, rtol=1e-6, atol=1e-6)


def test_of_an_adapter_only_the_second_matrix_is_scaled_so_that_the_product_is(tmp_path: Path) -> None:
    prefix = "base_model.model.layer"
    down, up = torch.randn(2, 5), torch.randn(4, 2)
    tuned = {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
    found = blended(tmp_path, 0.5, None, tuned)
    torch.testing.assert_close(
        found[f"{prefix}.lora_B.weight"] @ found[f"{prefix}.lora_A.weight"], 0.5 * (up @ down), rtol=0, atol=0
    )
    whole = {f"base_model.model.{name}": tensor for name, tensor in TUNED.items()}
    assert TunedWeights(tmp_path / "tuned").names == []
    found = blended(tmp_path, 0.5, base_model(3), {**tuned, **whole})
    assert found["base_model.model.layer"].tolist() == [6, 0]
    assert TunedWeights(tmp_path / "tuned").names and set(TunedWeights(tmp_path / "tuned").names) == set(TUNED)


def test_another_shape_and_a_folder_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^layer: \[1\] in the base model, \[2\] in the tuned model; restore"):
        blended(tmp_path, 0.5, base_model(layer=torch.zeros(1)), {"layer": TUNED["layer"]})
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match=r"none has no weights"):
        TunedWeights(tmp_path / "none").write(tmp_path, Blend(0.5, None))
