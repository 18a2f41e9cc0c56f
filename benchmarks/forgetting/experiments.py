"""What is trained: two models, each on one task in several ways, while rows of other skills are held out."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.fetched import fetched
from demo import chitchat, conll, help_texts, sentiment, words
from demo.fetch import CACHE

DATA = CACHE / "demo"
NUM_REVIEWS, NUM_SENTENCES, NUM_TEXTS, NUM_QUESTIONS, NUM_CHATS = 600, 500, 60, 120, 40
"""Rows of dev, of test and of each retention set: few, because each run evaluates them two or three times."""
NUM_EARLIER = 300
"""Rows from which EWC learns what the model needs for what it could do before."""

ENCODER = """
task: {{kind: token_classification, mark_capitals: true}}
model: {{path: {folder}/reviews/export/best}}
data:
  train: {data}/conll2003/train.conll
  dev: {folder}/names-valid.conll
  test: {folder}/names-test.conll
  max_tokens: 128
retention:
  sets:
    reviews: {{task: {{kind: classification}}, data: {folder}/reviews.jsonl, model: {folder}/reviews}}
  sequential: false
train: {{global_batch_size: 32, max_steps: 150, eval_every_steps: 150}}
optim: {{lr: 2e-4, warmup_fraction: 0.1}}
engine: {{deepspeed: null}}
job: {{ranks: 2}}
report: {{wandb: disabled}}
"""
REVIEWS = """
task: {{kind: classification}}
model: {{path: {data}/minilm}}
data:
  train: {data}/movie_reviews/train.jsonl
  dev: {folder}/reviews.jsonl
  max_tokens: 128
train: {{global_batch_size: 32, max_steps: 150}}
optim: {{lr: 1e-4, warmup_fraction: 0.1}}
job: {{ranks: 2}}
report: {{wandb: disabled}}
"""
CHAT = """
task: {{kind: chat, generate_dev_rows: 0, generate_test_rows: 0}}
model: {{path: {data}/smollm2}}
data:
  train: {train}
  dev: {folder}/chats-dev.jsonl
  test: {folder}/chats-test.jsonl
  max_tokens: 128
retention:
  sets:
    text: {{task: {{kind: language_modeling}}, data: {folder}/texts.jsonl}}
    words: {{task: {{kind: multiple_choice, prompt: "Definition: {{question}}\\nWord:"}}, data: {folder}/words.jsonl}}
train: {{global_batch_size: 16, max_steps: 20, micro_batch_tokens: 2048}}
optim: {{lr: 3e-4, warmup_fraction: 0.1}}
engine: {{deepspeed: null}}
job: {{ranks: 2}}
report: {{wandb: disabled}}
"""


@dataclass(frozen=True)
class Way:
    """A way to train."""

    name: str
    overrides: tuple[str, ...] = ()
    blends: bool = False
    """Whether the models between the base and the result are evaluated too."""
    replays: int = 0
    """Rows that the base model writes, which are trained on with the others."""


@dataclass(frozen=True)
class Experiment:
    """A model, a task that it learns in several ways, and other skills that are held out."""

    name: str
    title: str
    recipe: str
    metric: str
    """Of the task that is learned, on its test rows."""
    lower_is_better: bool
    kept: str
    """The set that is drawn against it."""
    ways: tuple[Way, ...]
    seeds: tuple[int, ...]
    first: str | None
    """The recipe of the run that has to come before."""
    prepare: Callable[[Path], None]
    """Writes the rows into a folder."""


def encoder_rows(folder: Path) -> None:
    """Reviews, which were learned first, and sentences with names, which are learned then."""
    fetched(sentiment.prepare, conll.prepare)
    _head(DATA / "movie_reviews/test.jsonl", folder / "reviews.jsonl", NUM_REVIEWS)
    _head(DATA / "movie_reviews/train.jsonl", folder / "earlier.jsonl", NUM_EARLIER)
    for split in ("valid", "test"):
        sentences = (DATA / f"conll2003/{split}.conll").read_text(encoding="utf-8").split("\n\n")
        text = "\n\n".join(sentences[:NUM_SENTENCES]) + "\n"
        (folder / f"names-{split}.conll").write_text(text, encoding="utf-8")


def chat_rows(folder: Path) -> None:
    """Conversations, which are learned; general text and questions about words."""
    fetched(chitchat.prepare, help_texts.prepare, words.prepare)
    for split in ("dev", "test"):
        _head(DATA / f"chitchat/{split}.jsonl", folder / f"chats-{split}.jsonl", NUM_CHATS)
    _head(DATA / "words/test.jsonl", folder / "words.jsonl", NUM_QUESTIONS)
    for split, name, num_rows in (("test", "texts", NUM_TEXTS), ("train", "earlier", NUM_EARLIER)):
        with (DATA / f"help_texts/en-fr/{split}.jsonl").open(encoding="utf-8") as stream:
            texts = [json.loads(line)["translation"]["en"] for line in islice(stream, num_rows)]
        rows = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")


def _head(source: Path, target: Path, num_rows: int) -> None:
    with source.open(encoding="utf-8") as stream:
        target.write_text("".join(islice(stream, num_rows)), encoding="utf-8")


EWC = "regularize.ewc={{data: FOLDER/earlier.jsonl, rows: 300, task: {task}, weight: {weight}}}"
LORA = ("model.lora.r=16", "optim.lr=1e-3")
EXPERIMENTS = (
    Experiment(
        "encoder",
        "MiniLM: reviews, then names",
        ENCODER,
        metric="f1",
        lower_is_better=False,
        kept="reviews",
        ways=(
            Way("all weights", blends=True),
            Way("LoRA", LORA),
            Way("freeze", ('model.freeze=[embeddings,"layers:0-2"]',)),
            Way("layer_decay", ("optim.layer_decay=0.7",)),
            Way("L2-SP", ("regularize.l2_sp=100",)),
            Way("EWC", (EWC.format(task="{kind: classification}", weight=1000),)),
        ),
        seeds=(1, 2, 3),
        first=REVIEWS,
        prepare=encoder_rows,
    ),
    Experiment(
        "chat",
        "SmolLM2-135M: dialogue",
        CHAT,
        metric="perplexity",
        lower_is_better=True,
        kept="words",
        ways=(
            Way("all weights", blends=True),
            Way("LoRA", LORA),
            Way("KL to the base", ("regularize.kl_to_base=1.0",)),
            Way("L2-SP", ("regularize.l2_sp=100",)),
            Way("EWC", (EWC.format(task="language_modeling", weight=1000),)),
            Way("own replay", replays=24),
        ),
        seeds=(1,),
        first=None,
        prepare=chat_rows,
    ),
)


def names() -> Iterator[str]:
    """The names of the experiments."""
    return (experiment.name for experiment in EXPERIMENTS)
