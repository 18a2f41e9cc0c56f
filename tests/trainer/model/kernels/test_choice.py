"""Which kernels are used follows from the recipe and from what is observed; `liger` is used or refused."""

import pytest

from shardtune.errors import DataError
from shardtune.trainer.model.kernels.choice import Observed, choose_kernels


def observed(
    *, device: str = "cuda", known: tuple[str, ...] | None = ("llama", "qwen3"), is_compiled: bool = False
) -> Observed:
    return Observed(device, "llama", known, is_compiled)


def test_auto_uses_liger_where_it_can_and_says_why_it_cannot() -> None:
    choice = choose_kernels("auto", observed())
    assert choice.uses_liger and not choice.has_liger_loss
    assert choice.note is not None and "Liger knows llama models" in choice.note
    for seen, reason in (
        (observed(known=None), "Liger Kernel is not installed"),
        (observed(known=("qwen3",)), "Liger Kernel has no kernels for llama models"),
        (observed(is_compiled=True), "engine.compile fuses the same operations"),
    ):
        choice = choose_kernels("auto", seen)
        assert not choice.uses_liger and choice.note is not None and reason in choice.note


def test_on_cpus_auto_has_nothing_to_choose_and_nothing_to_say() -> None:
    assert choose_kernels("auto", observed(device="cpu", known=None)).note is None


def test_torch_uses_none_of_them_even_where_they_are_there() -> None:
    choice = choose_kernels("torch", observed())
    assert not choice.uses_liger and not choice.has_liger_loss and choice.note is None


def test_liger_is_used_with_its_loss_also_in_a_compiled_model() -> None:
    choice = choose_kernels("liger", observed(is_compiled=True))
    assert choice.uses_liger and choice.has_liger_loss and choice.note is not None


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (observed(device="cpu"), "its kernels run on GPUs only; set engine.kernels=auto"),
        (observed(known=None), "Liger Kernel is not installed; pip install 'shardtune[gpu]'"),
        (observed(known=("qwen3",)), "Liger Kernel has no kernels for llama models; set engine.kernels=auto"),
    ],
)
def test_liger_is_refused_in_one_line_with_the_cure(seen: Observed, line: str) -> None:
    with pytest.raises(DataError, match=r"^engine\.kernels: liger is not possible: ") as raised:
        choose_kernels("liger", seen)
    assert str(raised.value).endswith(line)
