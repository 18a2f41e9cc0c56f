"""The Fisher information is the mean of squared gradients, each of one example, on any ranks and ZeRO stage."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

import tests.support.runs  # imports what each forked rank would
from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.snapshot import Read
from shardtune.trainer.reporting.reporter import NullReporter
from shardtune.trainer.setup.regularize.earlier_skill import FISHER, INDEX
from shardtune.trainer.setup.regularize.fisher import settle_fisher
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe
from tests.support.tiny import write_causal, write_documents, write_encoder, write_reviews

assert tests.support.runs
NUM_ROWS = 5
LABELS = ("negative", "positive")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of reviews as the pretrained model, and reviews; new rows have other labels."""
    folder = tmp_path_factory.mktemp("earlier")
    write_encoder(folder / "encoder", dropout=0.1)
    config = transformers.BertConfig.from_pretrained(folder / "encoder")
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: at for at, name in enumerate(LABELS)}
    torch.manual_seed(1)
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "encoder")
    write_reviews(folder / "earlier.jsonl", NUM_ROWS, seed=3)
    rows = [{"text": f"the film was {word}", "label": word} for word in ("good", "fine", "bad") * 4]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    ewc = f"regularize.ewc={{data: {folder}/earlier.jsonl, weight: 10}}"
    return tiny_recipe(folder, "data.dev=null", "data.test=null", "task.label_names=[good, fine, bad]", ewc, *overrides)


def one_by_one(folder: Path) -> dict[str, Tensor]:
    """The mean over rows of the squared gradient of each row's log-likelihood, by autograd."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "encoder")
    model = transformers.BertForSequenceClassification.from_pretrained(folder / "encoder").eval()
    total = {name: torch.zeros(parameter.numel()) for name, parameter in model.named_parameters()}
    rows = [json.loads(line) for line in (folder / "earlier.jsonl").read_text().splitlines()]
    for row in rows:
        logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        likelihood = logits.log_softmax(-1)[LABELS.index(row["label"])]
        for (name, _), grad in zip(
            model.named_parameters(), torch.autograd.grad(likelihood, list(model.parameters())), strict=True
        ):
            total[name] += grad.flatten() ** 2 / len(rows)
    return total


def found(ranks: Ranks, recipe: Recipe, run_dir: Path) -> dict[str, list[float]]:
    """What every rank can read of the Fisher information."""
    fisher = settle_fisher(recipe, run_dir, ranks, NullReporter())
    assert fisher is not None and fisher.weight == 10
    values = {name: torch.full((size,), torch.nan) for name, size in fisher.num_elements.items()}
    fisher.tensors.read_together([Read(name, 0, into) for name, into in values.items()], ranks)
    return {name: into.tolist() for name, into in values.items()}


@pytest.mark.parametrize(("world_size", "strategy"), [(1, "null"), (2, "null"), (2, "zero3"), (7, "zero2")])
def test_it_is_that_of_each_example_alone(earlier: Path, tmp_path: Path, world_size: int, strategy: str) -> None:
    expected = one_by_one(earlier)
    for values in run_ranks(found, recipe_of(earlier, f"engine.deepspeed={strategy}"), tmp_path, world_size=world_size):
        assert values.keys() == expected.keys()
        for name, numbers in values.items():
            assert numbers == pytest.approx(expected[name].tolist(), rel=1e-3, abs=1e-9), name


def test_rows_of_another_task_are_answered_by_the_head_of_the_pretrained_model(earlier: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (earlier / "earlier.jsonl").read_text().splitlines()]
    lines = "".join(json.dumps({"text": row["text"], "stars": row["label"]}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    keys = "task: {kind: classification}, columns: {label: stars}"
    ewc = f"regularize.ewc={{data: {tmp_path}/rows.jsonl, weight: 10, {keys}}}"
    words = ("data.dev=null", "data.test=null", "task={kind: token_classification}")
    recipe = tiny_recipe(earlier, *words, "data.columns={tags: ner}", ewc)
    expected = one_by_one(earlier)
    for values in run_ranks(found, recipe, tmp_path):
        for name, numbers in values.items():
            assert numbers == pytest.approx(expected[name].tolist(), rel=1e-3, abs=1e-9), name


def test_it_is_kept_for_later_starts_on_other_ranks(earlier: Path, tmp_path: Path) -> None:
    rows = shutil.copy(earlier / "earlier.jsonl", tmp_path / "rows.jsonl")
    recipe = recipe_of(earlier, f"regularize.ewc={{data: {rows}, weight: 10, rows: 3}}")
    (first, _) = run_ranks(found, recipe, tmp_path)
    (tmp_path / "rows.jsonl").unlink()
    for values in run_ranks(found, recipe, tmp_path, world_size=3):
        assert values == first
    (tmp_path / FISHER / INDEX).unlink()
    with pytest.raises(AssertionError, match=r"rows\.jsonl"):
        run_ranks(found, recipe, tmp_path, world_size=1)


def test_plain_text_is_a_skill_of_a_causal_model(tmp_path: Path) -> None:
    write_causal(tmp_path / "causal", ["good", "bad", "film", "the", "was"], chat_template=None)
    write_documents(tmp_path / "text.jsonl", 4, longest=8)
    recipe = tiny_recipe(
        tmp_path,
        f"model.path={tmp_path}/causal",
        "data={train: none, max_tokens: 64, cache_dir: " + f"{tmp_path}/cache}}",
        f"regularize.ewc={{data: {tmp_path}/text.jsonl, weight: 10, rows: 3, task: language_modeling}}",
    )
    for run_dir in (tmp_path / "1", tmp_path / "2"):
        run_dir.mkdir()
    one, other = (run_ranks(found, recipe, tmp_path / str(n), world_size=n)[0] for n in (1, 2))
    assert sum(one["model.norm.weight"]) > 0
    for name, numbers in one.items():
        assert numbers == pytest.approx(other[name], rel=1e-4, abs=1e-9), name


def test_a_skill_that_the_model_does_not_have_is_refused(earlier: Path, tmp_path: Path) -> None:
    def refusal(ranks: Ranks, recipe: Recipe) -> str:
        with pytest.raises(DataError) as raised:
            settle_fisher(recipe, tmp_path, ranks, NullReporter())
        return str(raised.value)

    (text,) = run_ranks(refusal, recipe_of(earlier, f"regularize.ewc={{data: {earlier}/train.jsonl}}"), world_size=1)
    assert text.startswith("regularize.ewc: model.head: keep, but the head of")
