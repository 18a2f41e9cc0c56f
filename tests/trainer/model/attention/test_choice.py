"""Which attention implementation is chosen, by machine and model, and what is said of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils import import_utils

from shardtune.errors import ConfigError
from shardtune.trainer.model.attention.choice import CALLED_WITH, Choice, Machine, Needs, choose
from shardtune.trainer.model.attention.observe import machine_of, needs_of

CPU = Machine("cpu", torch="2.13.0", varlen=CALLED_WITH)
AMPERE = Machine("cuda", (8, 0), torch="2.13.0", varlen=CALLED_WITH, has_triton=True)
HOPPER, BLACKWELL, VOLTA = (replace(AMPERE, capability=capability) for capability in ((9, 0), (10, 0), (7, 0)))
OLD = replace(AMPERE, torch="2.10.0", varlen=frozenset({"is_causal"}))
OLDER = replace(AMPERE, torch="2.9.1", varlen=None)
LLAMA = Needs("Llama", frozenset({128}), is_packed=True)
CAPPED = replace(LLAMA, name="Gemma2", softcap=True, has_sdpa=False)
DROPPING = replace(LLAMA, name="Bert", dropout=0.1)


def having(machine: Machine, *versions: int) -> Machine:
    return replace(machine, flash=frozenset(versions))


CHOSEN: list[tuple[Machine, Needs, str, str | None, str]] = [
    (CPU, LLAMA, "bf16", None, ""),
    (AMPERE, LLAMA, "bf16", "varlen", "attention: varlen (torch's flash kernel, within the borders of texts)"),
    (AMPERE, replace(LLAMA, is_packed=False), "fp16", "varlen", ""),
    (having(AMPERE, 2, 3), LLAMA, "bf16", "varlen", ""),
    (HOPPER, LLAMA, "bf16", "varlen", "flash_attention_3 is not installed"),
    (having(HOPPER, 2, 3), LLAMA, "bf16", "flash_attention_3", ""),
    (having(HOPPER, 4), LLAMA, "bf16", "flash_attention_4", "flash_attention_3 is not installed"),
    (having(BLACKWELL, 3, 4), LLAMA, "bf16", "flash_attention_4", ""),
    (having(BLACKWELL, 3), LLAMA, "bf16", "varlen", "flash_attention_4 is not installed"),
    (OLD, LLAMA, "bf16", "flex_attention", "varlen of torch 2.10.0 lacks enable_gqa, scale, window_size"),
    (OLDER, LLAMA, "bf16", "flex_attention", "varlen is missing from torch 2.9.1"),
    (having(OLD, 2), LLAMA, "bf16", "flash_attention_2", "varlen of torch 2.10.0 lacks"),
    (OLD, replace(LLAMA, is_packed=False), "bf16", "sdpa", "varlen of torch 2.10.0 lacks"),
    (AMPERE, LLAMA, "fp32", "flex_attention", "varlen computes in bf16 and fp16, and engine.precision is fp32"),
    (VOLTA, LLAMA, "fp16", "sdpa", "varlen is not for GPUs of compute capability 7.0"),
    (replace(AMPERE, has_triton=False), LLAMA, "fp32", "sdpa", "flex_attention is compiled by triton, which is not"),
    (AMPERE, CAPPED, "bf16", "flex_attention", "varlen has no soft cap of scores, which Gemma2 needs"),
    (having(AMPERE, 2), CAPPED, "bf16", "flash_attention_2", ""),
    (VOLTA, CAPPED, "fp16", "eager", "sdpa is not supported by transformers for Gemma2"),
    (AMPERE, DROPPING, "bf16", "sdpa", "varlen has no dropout, and the model's attention has 0.1 (model.dropout=0"),
    (having(HOPPER, 2, 3), DROPPING, "bf16", "flash_attention_2", "flash_attention_3 has no dropout"),
    (AMPERE, replace(LLAMA, head_sizes=frozenset({80})), "bf16", "varlen", ""),
    (
        AMPERE,
        replace(LLAMA, head_sizes=frozenset({12})),
        "bf16",
        "flex_attention",
        "a multiple of 8, and these have 12",
    ),
    (AMPERE, replace(LLAMA, head_sizes=frozenset({512})), "bf16", "flex_attention", "at most 256"),
    (AMPERE, replace(LLAMA, head_sizes=frozenset({128, 192})), "bf16", "flex_attention", "these have 128 and 192"),
    (
        AMPERE,
        replace(LLAMA, has_flash=False, has_flex=False),
        "bf16",
        "sdpa",
        "varlen is not supported by transformers",
    ),
    (
        AMPERE,
        replace(LLAMA, name="GptOss", has_own_kernels=True),
        "bf16",
        "sdpa",
        "lacks the attention sinks of GptOss",
    ),
    (AMPERE, replace(LLAMA, name="Mixtral", reads_mask=True), "bf16", "flex_attention", "which the router of Mixtral"),
    (
        AMPERE,
        replace(LLAMA, name="T5", crosses=True, is_packed=False),
        "bf16",
        "sdpa",
        "T5 has an encoder and a decoder",
    ),
]


@pytest.mark.parametrize(("machine", "needs", "precision", "implementation", "said"), CHOSEN)
def test_the_fastest_is_chosen_that_the_machine_and_the_model_allow(
    machine: Machine, needs: Needs, precision: str, implementation: str | None, said: str
) -> None:
    choice = choose("auto", machine, needs, precision)
    assert choice.implementation == implementation
    assert (choice.notice is None) == (machine is CPU) and said in (choice.notice or "")


REFUSED: list[tuple[str, Machine, Needs, str, str]] = [
    ("flash_attention_2", CPU, LLAMA, "bf16", "trains on GPUs only, and this run is on cpu"),
    ("flex_attention", CPU, LLAMA, "bf16", "trains on GPUs only, and this run is on cpu"),
    (
        "flash_attention_2",
        AMPERE,
        LLAMA,
        "bf16",
        "is not installed (flash-attn, or kernels with its files from the hub)",
    ),
    ("flash_attention_3", having(BLACKWELL, 3), LLAMA, "bf16", "is not for GPUs of compute capability 10.0"),
    (
        "varlen",
        CPU,
        DROPPING,
        "fp32",
        "has no dropout, and the model's attention has 0.1 (model.dropout=0 drops nothing)",
    ),
    ("varlen", OLD, LLAMA, "bf16", "of torch 2.10.0 lacks enable_gqa, scale, window_size"),
    ("varlen", AMPERE, LLAMA, "fp32", "computes in bf16 and fp16, and engine.precision is fp32"),
    ("sdpa", AMPERE, CAPPED, "bf16", "is not supported by transformers for Gemma2"),
]


@pytest.mark.parametrize(("asked", "machine", "needs", "precision", "fault"), REFUSED)
def test_a_wish_that_cannot_be_had_is_refused_in_one_line(
    asked: str, machine: Machine, needs: Needs, precision: str, fault: str
) -> None:
    with pytest.raises(ConfigError) as error:
        choose(asked, machine, needs, precision)
    assert str(error.value) == f"model.attention: {asked} {fault}; set it to auto"


@pytest.mark.parametrize(
    ("asked", "machine"),
    [("sdpa", AMPERE), ("eager", CPU), ("flash_attention_2", having(AMPERE, 2)), ("varlen", AMPERE)],
)
def test_a_wish_that_can_be_had_is_granted_without_a_word(asked: str, machine: Machine) -> None:
    assert choose(asked, machine, LLAMA, "bf16") == Choice(asked)


def test_varlen_on_a_cpu_is_said_to_be_for_tests() -> None:
    choice = choose("varlen", CPU, replace(LLAMA, head_sizes=frozenset({12})), "fp32")
    assert choice.implementation == "varlen" and "on a CPU" in str(choice.notice)


CONFIGS: list[tuple[str, str, dict[str, Any], Needs]] = [
    (
        "llama",
        "CausalLM",
        {"hidden_size": 64, "num_attention_heads": 4},
        Needs("LlamaForCausalLM", frozenset({16}), is_packed=True),
    ),
    (
        "bert",
        "TokenClassification",
        {"attention_probs_dropout_prob": 0.2},
        Needs("BertForTokenClassification", frozenset({64}), dropout=0.2, is_packed=True),
    ),
    (
        "gemma2",
        "CausalLM",
        {"head_dim": 32},
        Needs("Gemma2ForCausalLM", frozenset({32}), has_sdpa=False, softcap=True, is_packed=True),
    ),
    (
        "gpt_oss",
        "CausalLM",
        {"head_dim": 64},
        Needs("GptOssForCausalLM", frozenset({64}), has_sdpa=False, has_own_kernels=True, is_packed=True),
    ),
    (
        "bloom",
        "CausalLM",
        {"hidden_size": 64, "n_head": 4},
        Needs(
            "BloomForCausalLM",
            frozenset({16}),
            has_flash=False,
            has_sdpa=False,
            has_flex=False,
            dropout=0.0,
            is_packed=True,
        ),
    ),
]


@pytest.mark.parametrize(("name", "kind", "settings", "needs"), CONFIGS)
def test_what_a_model_needs_is_read_from_its_class_and_config(
    name: str, kind: str, settings: dict[str, Any], needs: Needs
) -> None:
    config = transformers.AutoConfig.for_model(name, **settings)
    assert needs_of(getattr(transformers, f"AutoModelFor{kind}"), config, is_packed=True) == needs


def test_this_machine_is_seen_as_it_is() -> None:
    machine = machine_of(torch.device("cpu"))
    assert machine.device == "cpu" and machine.varlen is not None and machine.varlen >= CALLED_WITH
    assert choose("auto", machine, LLAMA, "bf16") == Choice(None)


def test_flash_attention_is_found_in_its_package_or_in_files_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def found() -> frozenset[int]:
        machine = machine_of(torch.device("cuda"))
        assert (machine.device, machine.capability) == ("cuda", (9, 0))
        return machine.flash

    (tmp_path / "models--kernels-community--vllm-flash-attn3" / "snapshots" / "1").mkdir(parents=True)
    assert found() == frozenset()  # without the kernels package, its files are of no use
    monkeypatch.setattr(import_utils, "is_kernels_available", lambda: True)
    assert found() == {3}
    monkeypatch.setattr(import_utils, "is_flash_attn_2_available", lambda: True)
    assert found() == {2, 3}
