"""The planned time of a step on this machine's CPUs beside the real one, of six trainings.

    shardtune plan --calibrate && python -m benchmarks.planner --cpu [--only=NAME] [--steps=N]

Models of the sizes of MiniLM and of a shallow SmolLM2 with random weights, on texts of random words, each trained by
`shardtune run` for a few steps. What is compared is the plan without what earlier runs have taught. The machine has to
be otherwise idle.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from shardtune.run_dir.files import read_events
from shardtune.run_dir.view.plan_file import read_plan

BOUND = 0.15
"""The largest error of a step's time."""
STEPS, WARM_UP = 16, 4
"""Steps of a training, and how many of the first are left out."""
NUM_ROWS = 3000
MINILM: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 6,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
RECIPE = """
task: {{kind: {task}}}
model: {{path: {folder}/{model}}}
data: {{train: {folder}/{task}.jsonl, max_tokens: {max_tokens}, cache_dir: {folder}/cache}}
train: {{global_batch_size: {batch}, max_steps: {steps}, micro_batch_tokens: {micro_batch_tokens}}}
optim: {{lr: 1e-4}}
engine: {{precision: {precision}, deepspeed: {deepspeed}}}
job: {{ranks: {ranks}, device: cpu}}
report: {{wandb: disabled, every_steps: 1}}
"""


@dataclass(frozen=True)
class Configuration:
    """A training whose step is timed."""

    name: str
    model: str
    task: str
    batch: int
    ranks: int
    precision: str
    deepspeed: str = "null"
    max_tokens: int = 128
    micro_batch_tokens: int = 4096
    more: tuple[str, ...] = ()


CONFIGURATIONS = (
    Configuration("MiniLM, 16 rows, 2 ranks, fp32", "minilm", "classification", 16, 2, "fp32"),
    Configuration("MiniLM, 64 rows, 1 rank, bf16", "minilm", "classification", 64, 1, "bf16"),
    Configuration("MiniLM, 32 rows, 2 ranks, fp32, ZeRO-2", "minilm", "classification", 32, 2, "fp32", "zero2"),
    Configuration("SmolLM2, packed, 2 ranks, bf16", "smollm2", "language_modeling", 16, 2, "bf16", max_tokens=256),
    Configuration(
        "SmolLM2, LoRA, 2 ranks, fp32", "smollm2", "language_modeling", 8, 2, "fp32", more=("model.lora.r=16",)
    ),
    Configuration(
        "SmolLM2, padded, 1 rank, fp32", "smollm2", "language_modeling", 8, 1, "fp32", more=("data.packing=off",)
    ),
)


@dataclass(frozen=True)
class Timed:
    """A configuration with the planned and the real time of a step."""

    name: str
    planned_s: float
    real_s: float

    @property
    def error(self) -> float:
        """The plan's, relative to the real time."""
        return self.planned_s / self.real_s - 1


def compare_on_cpus(only: str | None, steps: int) -> int:
    """Trains and prints the table; returns the exit code: 1 if an error is above the bound, 2 without a plan."""
    print(f"{'':42} {'planned':>10} {'real':>10}   error")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for configuration in CONFIGURATIONS:
            if only is not None and only not in configuration.name:
                continue
            timed = train(configuration, Path(folder), steps)
            if timed is None:
                return 2
            found.append(timed)
            print(f"{timed.name:42} {timed.planned_s:8.3f} s {timed.real_s:8.3f} s {timed.error:+7.1%}", flush=True)
    errors = [abs(timed.error) for timed in found]
    if not errors:
        print(f"no configuration has {only!r} in its name")
        return 2
    print(f"median {median(errors):.1%}, largest {max(errors):.1%}; bound {BOUND:.0%}")
    return int(max(errors) > BOUND)


def train(configuration: Configuration, folder: Path, steps: int) -> Timed | None:
    """Trains a configuration; None, after a line that says why, if it fails or is not planned."""
    number = CONFIGURATIONS.index(configuration)
    recipe, run_dir = folder / f"{number}.yaml", folder / f"run-{number}"
    values = {key: value for key, value in vars(configuration).items() if key not in ("name", "more")}
    recipe.write_text(RECIPE.format(folder=folder, steps=steps, **values), encoding="utf-8")
    # Prepared beforehand, so that the plan has exact token counts.
    for words in (["prepare"], ["run", f"--run-dir={run_dir}"]):
        command, *flags = words
        argv = [sys.executable, "-m", "shardtune.launcher", command, str(recipe), *configuration.more, *flags]
        done = subprocess.run(argv, env=os.environ, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{configuration.name}: {command} failed:\n{done.stderr}")
            return None
    plan = read_plan(run_dir) or {}
    done_steps = [event for event in read_events(run_dir) if event["event"] == "step"][WARM_UP:]
    if "uncorrected_step_s" not in plan:
        print(f"{configuration.name}: no time is planned; run `shardtune plan --calibrate` first\n{done.stderr}")
        return None
    return Timed(configuration.name, plan["uncorrected_step_s"], real_step_s(plan, done_steps))


def real_step_s(plan: Mapping[str, float], events: Sequence[Mapping[str, float]]) -> float:
    """Seconds of a step with as many tokens as the plan's: few steps have longer or shorter rows than the average."""
    seconds = sum(event["step_time_s"] for event in events)
    tokens = sum(event["step_time_s"] * event["tokens_per_s"] for event in events)
    return plan["tokens_per_s"] * plan["step_s"] * seconds / tokens


def write_data(folder: Path) -> None:
    """Writes the models without weights, and the texts."""
    for name, config in (("minilm", MINILM), ("smollm2", SMOLLM2)):
        (folder / name).mkdir()
        write_model(folder / name, config)
        write_tokenizer(folder / name, config["vocab_size"])
    chosen = random.Random(0)
    for task in ("classification", "language_modeling"):
        lines = (json.dumps(row) + "\n" for row in rows(task, chosen))
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_model(folder: Path, config: dict[str, Any]) -> None:
    """A model with random weights."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    kind = AutoModelForCausalLM if config["model_type"] == "llama" else AutoModel
    torch.manual_seed(0)
    logging.disable_progress_bar()
    model: Any = kind.from_config(AutoConfig.for_model(**config))  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)


def rows(task: str, chosen: random.Random) -> Iterator[dict[str, str]]:
    """Texts of 8 to 120 words that any of both vocabularies has."""
    for _ in range(NUM_ROWS):
        row = {"text": " ".join(f"w{chosen.randrange(30_000)}" for _ in range(chosen.randint(8, 120)))}
        if task == "classification":
            row["label"] = chosen.choice(["positive", "negative"])
        yield row


def write_tokenizer(folder: Path, vocabulary_size: int) -> None:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *(f"w{number}" for number in range(vocabulary_size - len(special)))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        model_max_length=512,
    ).save_pretrained(folder)


def names(configurations: Sequence[Configuration] = CONFIGURATIONS) -> str:
    """The names, for --help."""
    return "; ".join(configuration.name for configuration in configurations)
