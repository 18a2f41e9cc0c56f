"""What the model could do before is measured alike on any number of ranks and in any ZeRO stage, through old heads."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.retention import RetentionSet
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import evaluation_batches
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.evaluation.evaluate import evaluate
from shardtune.trainer.evaluation.exported import ExportedModel
from shardtune.trainer.retention.preparation import find_retention, prepare_retention
from shardtune.trainer.retention.sets import described_retention
from shardtune.trainer.retention.sibling import open_sibling
from tests.support.ranks import run_ranks
from tests.support.runs import events, tiny_recipe, train, write_tiny
from tests.support.stops import stop_after
from tests.support.tiny import BAD, GOOD, PLAIN, give_masked_head, write_causal, write_documents, write_reviews

SHORT = ("train.num_epochs=1", "train.eval_every_steps=3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with a head for masked texts, its rows, and general text."""
    folder = write_tiny(tmp_path_factory.mktemp("retention"))
    give_masked_head(folder / "encoder")
    write_documents(folder / "general.jsonl", 23)
    return folder


def masked(folder: Path, *overrides: str) -> Recipe:
    sets = f"{{general: {{task: {{kind: language_modeling}}, data: {folder}/general.jsonl}}}}"
    return tiny_recipe(folder, *SHORT, f"retention.sets={sets}", *overrides)


def measured(run_dir: Path) -> list[tuple[int, float, float]]:
    """(step, loss, token accuracy) of every evaluation of the sets."""
    return [(each["step"], each["loss"], each["token_accuracy"]) for each in events(run_dir, "retention")]


def results_of(run_dir: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    return results


@pytest.mark.parametrize("overrides", [(), ("model.lora={r: 4}", "optim.lr=3e-2")])
def test_masked_text_is_answered_alike_on_1_2_and_3_ranks_and_under_zero3(
    folder: Path, tmp_path: Path, overrides: Sequence[str]
) -> None:
    ways = [(1, "null"), (3, "null"), (2, "zero3")]
    found = []
    for number, (world_size, engine) in enumerate(ways):
        recipe = masked(folder, f"engine.deepspeed={engine}", *overrides)
        assert train(recipe, tmp_path / str(number), world_size=world_size)[0] == [True] * world_size
        found.append(measured(tmp_path / str(number)))
    assert [step for step, *_ in found[0]][:3] == [0, 3, 6]
    assert len({loss for _, loss, _ in found[0]}) > 2
    for other in found[1:]:
        assert [(step, loss) for step, loss, _ in other] == [
            (step, pytest.approx(loss, rel=1e-4)) for step, loss, _ in found[0]
        ]
        # Of 119 hidden tokens, rounding may let another one be the likeliest.
        assert [right for *_, right in other] == pytest.approx([right for *_, right in found[0]], abs=0.01)


def test_what_is_measured_is_the_trained_model_with_the_old_head_and_the_old_task_stays_as_good(
    folder: Path, tmp_path: Path
) -> None:
    recipe = masked(folder)
    assert train(recipe, tmp_path, world_size=1)[0] == [True]
    (held_out,) = prepare_retention(recipe, prepare(recipe)).sets
    task, tokenizer = held_out.task()
    whole = transformers.BertForMaskedLM.from_pretrained(folder / "encoder")
    tuned = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "export" / "best")
    whole.bert.load_state_dict({name: w for name, w in tuned.bert.state_dict().items() if "pooler" not in name})

    def body(ranks: Ranks) -> dict[str, Any]:
        batches = evaluation_batches(held_out.split, BatchMaker(task, ranks, None))
        return evaluate(ExportedModel(whole, task), task, batches, None, tokenizer, ranks=ranks)

    (by_hand,) = run_ranks(body, world_size=1)
    results = results_of(tmp_path)["retention"]["general"]
    assert results["best"]["loss"] == pytest.approx(by_hand["loss"], rel=1e-5)
    assert results["best"]["intervals"]["loss"][0] < results["best"]["loss"] < results["best"]["intervals"]["loss"][1]
    assert (results["metric"], results["lower_is_better"]) == ("loss", True)
    assert results["at_start"]["loss"] == pytest.approx(measured(tmp_path)[0][1])
    # The evaluations in between have left the training as it is.
    plain = tiny_recipe(folder, *SHORT)
    train(plain, tmp_path / "plain", world_size=1)
    assert results_of(tmp_path / "plain")["dev"] == results_of(tmp_path)["dev"]


@pytest.mark.parametrize("stopped_after", [2, 3])
def test_a_run_broken_off_in_its_middle_measures_what_the_unbroken_one_does(
    folder: Path, tmp_path: Path, stopped_after: int
) -> None:
    recipe = masked(folder)
    train(recipe, tmp_path / "unbroken", world_size=1)
    run_dir = tmp_path / "broken"
    assert train(recipe, run_dir, world_size=2, before=stop_after(stopped_after))[0] == [False, False]
    assert train(recipe, run_dir, world_size=1)[0] == [True]
    (one, other) = (results_of(path)["retention"]["general"] for path in (run_dir, tmp_path / "unbroken"))
    assert one["at_start"]["loss"] == pytest.approx(other["at_start"]["loss"], rel=1e-6)
    assert one["best"]["loss"] == pytest.approx(other["best"]["loss"], rel=1e-4)


def stopped_within(number: int) -> Callable[[], None]:
    """A stop is asked for within the evaluation of the sets of that number."""

    def before() -> None:
        from shardtune.trainer.between_steps.evaluator import Evaluator
        from shardtune.trainer.distributed.stop import StopAsked

        original, calls = Evaluator.measure, []

        def measure(self: Evaluator, name: str, split: Any, *, like: str | None = None) -> dict[str, Any]:
            calls.extend([name] * (name == "general"))
            if len(calls) == number:
                raise StopAsked
            return original(self, name, split, like=like)

        Evaluator.measure = measure  # type: ignore[method-assign]

    return before


def test_an_evaluation_that_a_stop_has_cut_short_is_done_by_the_next_start(folder: Path, tmp_path: Path) -> None:
    recipe = masked(folder, "retention.max_drop=10")
    assert train(recipe, tmp_path, world_size=1, before=stopped_within(2))[0] == [False]
    assert [step for step, *_ in measured(tmp_path)] == [0]
    assert train(recipe, tmp_path, world_size=1)[0] == [True]
    assert [step for step, *_ in measured(tmp_path)][:3] == [0, 3, 6]
    assert {event["step"] for event in events(tmp_path, "eval") if event["split"] == "dev"} == {3, 6}


@pytest.fixture(scope="module")
def earlier(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that tells good reviews from bad ones."""
    run_dir = tmp_path_factory.mktemp("earlier") / "reviews"
    recipe = tiny_recipe(folder, "train.num_epochs=2")
    train(recipe, run_dir, world_size=1)
    keep_recipe(recipe, run_dir)
    return run_dir


def keep_recipe(recipe: Recipe, run_dir: Path) -> None:
    """What a start writes into its run directory before it trains."""
    from shardtune.recipe.load import render_recipe
    from shardtune.run_dir.run import refuse_other_data

    (run_dir / "config.yaml").write_text(render_recipe(recipe), encoding="utf-8")
    refuse_other_data(run_dir, prepare(recipe).identity)


def write_topics(folder: Path) -> None:
    """Rows for another classifier, by their first word."""
    for split, num_rows in (("train", 40), ("dev", 20)):
        rows = [json.loads(line) for line in write_documents(folder / "x", num_rows).read_text().splitlines()]
        labeled = [{**row, "label": "plot" if "plot" in row["text"] else "other"} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in labeled)
        (folder / f"topics-{split}.jsonl").write_text(text, encoding="utf-8")


def topics(folder: Path, model: Path, *overrides: str) -> Recipe:
    write_topics(folder)
    data = (f"data.train={folder}/topics-train.jsonl", f"data.dev={folder}/topics-dev.jsonl", "data.test=null")
    return tiny_recipe(folder, *SHORT, *data, f"model.path={model}", *overrides)


def test_a_run_on_the_export_of_another_measures_what_that_one_could_do(
    folder: Path, earlier: Path, tmp_path: Path
) -> None:
    recipe = topics(folder, earlier / "export" / "best")
    assert train(recipe, tmp_path, world_size=2)[0] == [True, True]
    found = events(tmp_path, "retention")
    assert [(event["set"], event["task"], event["metric"]) for event in found[:1]] == [
        ("reviews", "classification", "accuracy")
    ]
    before = results_of(earlier)["dev"]
    at_start = results_of(tmp_path)["retention"]["reviews"]["at_start"]
    assert at_start["accuracy"] == before["accuracy"] and at_start["loss"] == pytest.approx(before["loss"], rel=1e-4)
    assert "retention set" in "".join(event["text"] for event in events(tmp_path, "notice"))
    assert (
        prepare_retention(
            topics(folder, earlier / "export" / "best", "retention.sequential=false"), prepare(recipe)
        ).sets
        == ()
    )


@pytest.fixture(scope="module")
def second(folder: Path, earlier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the export of the earlier one, which tells texts with a plot from others."""
    run_dir = tmp_path_factory.mktemp("second") / "topics"
    recipe = topics(folder, earlier / "export" / "best", "task.label_names=[plot, other]")
    train(recipe, run_dir, world_size=1)
    keep_recipe(recipe, run_dir)
    return run_dir


def third(folder: Path, model: Path) -> Recipe:
    """A recipe for a classifier with other labels on the export of another run."""
    return topics(folder, model / "export" / "best", "task.label_names=[plot, other, neither]")


def test_all_runs_that_came_before_are_measured(folder: Path, earlier: Path, second: Path, tmp_path: Path) -> None:
    recipe = third(folder, second)
    assert train(recipe, tmp_path, world_size=2)[0] == [True, True]
    found, before = results_of(tmp_path)["retention"], results_of(second)
    assert list(found) == ["topics", "reviews"]
    for name, expected in (("topics", before["dev"]), ("reviews", before["retention"]["reviews"]["best"])):
        at_start = found[name]["at_start"]
        assert at_start["accuracy"] == expected["accuracy"], name
        assert at_start["loss"] == pytest.approx(expected["loss"], rel=1e-4), name

    retention = prepare_retention(recipe, prepare(recipe))
    assert [one.head for one in retention.sets] == [f"{run_dir}/export/best" for run_dir in (second, earlier)]
    said = [notice.partition(":")[0] for notice in retention.notices]
    assert said == ["model.path is of the run topics", "before it came the run reviews"]
    wanted = recipe.retention.model_copy(update={"sets": {"topics": held_out(folder)}})
    named = recipe.model_copy(update={"retention": wanted})
    assert [one.is_automatic for one in prepare_retention(named, prepare(named)).sets] == [False, True]


def test_runs_of_one_name_that_came_before_get_numbers(
    folder: Path, earlier: Path, second: Path, tmp_path: Path
) -> None:
    later, first = (
        Path(shutil.copytree(run_dir, tmp_path / name / "reviews"))
        for run_dir, name in ((second, "later"), (earlier, "first"))
    )
    for run_dir in (later, first):
        (run_dir / "data_fingerprint").unlink()
    config = (later / "config.yaml").read_text()
    (later / "config.yaml").write_text(config.replace(str(earlier), str(first)))
    recipe = third(folder, later)
    retention = prepare_retention(recipe, prepare(recipe))
    heads = [(one.name, one.head) for one in retention.sets]
    assert heads == [("reviews", f"{later}/export/best"), ("reviews-2", f"{first}/export/best")]
    assert "are a retention set, reviews-2 (retention" in retention.notices[1]

    shutil.rmtree(first / "export")
    retention = prepare_retention(recipe, prepare(recipe))
    assert [one.name for one in retention.sets] == ["reviews"]
    assert "is not evaluated" in retention.notices[1]


def held_out(folder: Path) -> RetentionSet:
    return RetentionSet.model_validate({"task": {"kind": "language_modeling"}, "data": f"{folder}/general.jsonl"})


def test_a_head_of_a_run_answers_for_a_model_without_a_pooler(folder: Path, earlier: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        folder,
        *SHORT,
        "task={kind: language_modeling}",
        f"data.train={folder}/general.jsonl",
        "train.micro_batch_tokens=256",
        f"retention.sets={{reviews: {{task: {{kind: classification}}, data: {folder}/dev.jsonl, model: {earlier}}}}}",
    )
    for engine, world_size in (("null", 1), ("zero3", 2)):
        way = recipe.engine.model_copy(update={"deepspeed": None if engine == "null" else engine})
        run_recipe = recipe.model_copy(update={"engine": way})
        assert train(run_recipe, tmp_path / engine, world_size=world_size)[0][0]
    one, other = (
        [(e["step"], e["accuracy"], e["loss"]) for e in events(tmp_path / engine, "retention")]
        for engine in ("null", "zero3")
    )
    assert one[0][2] != one[-1][2]
    assert [n for each in other for n in each] == pytest.approx([n for each in one for n in each], rel=1e-3)


def test_the_rows_of_an_earlier_run_are_prepared_again_if_its_cache_is_gone(
    folder: Path, earlier: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(earlier, tmp_path / "moved"))
    (run_dir / "data_fingerprint").unlink()
    recipe = topics(folder, run_dir / "export" / "best")
    retention = prepare_retention(recipe, prepare(recipe))
    assert [(one.name, len(one.split), one.head) for one in retention.sets] == [("moved", 29, recipe.model.path)]
    (notice,) = retention.notices
    assert notice.startswith("model.path is of the run moved: its dev rows (29 examples) are a retention set")

    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace("dev.jsonl", "gone.jsonl"))
    retention = prepare_retention(recipe, prepare(recipe))
    assert retention.sets == ()
    assert "gone.jsonl" in retention.notices[0] and "is not evaluated" in retention.notices[0]

    share = config.replace(f"dev: {folder}/dev.jsonl", "dev: {fraction: 0.2}")
    assert share != config
    (run_dir / "config.yaml").write_text(share)
    (notice,) = prepare_retention(recipe, prepare(recipe)).notices
    assert "its dev rows are a share of its training rows, and its prepared data are no longer in" in notice


def test_rows_with_the_labels_in_training_are_answered_by_the_model_in_training(folder: Path, tmp_path: Path) -> None:
    write_reviews(tmp_path / "other.jsonl", 11, seed=5)
    sets = f"retention.sets={{other: {{task: {{kind: classification}}, data: {tmp_path}/other.jsonl}}}}"
    recipe = tiny_recipe(folder, *SHORT, sets)
    (held_out,) = prepare_retention(recipe, prepare(recipe)).sets
    assert held_out.head is None
    train(recipe, tmp_path / "run", world_size=1)
    assert {"accuracy", "loss", "f1_macro"} <= results_of(tmp_path / "run")["retention"]["other"]["best"].keys()


@pytest.mark.parametrize(
    ("rows", "keys", "fault"),
    [
        (
            [{"text": "good", "label": "sports"}, {"text": "bad", "label": "negative"}],
            "",
            r"retention\.sets\.x: .*rows\.jsonl:1: label 'sports' is not in",
        ),
        ([{"text": "good"}], "", r"retention\.sets\.x: .*rows\.jsonl: no column 'label'"),
        ([], "", r"retention\.sets\.x: .*rows\.jsonl"),
        (
            [{"tokens": ["a"], "tags": ["O"]}],
            "task: {kind: token_classification}",
            r"retention\.sets\.x: neither the model in training nor .* \(BertForMaskedLM\) has a head for token_class",
        ),
        ([{"text": "a"}], "task: {kind: chat}", r"retention\.sets\.x: "),
        (
            [{"text": "a", "label": "bad"}],
            "task: {kind: classification}, model: ENCODER",
            r"retention\.sets\.x: model: .*encoder \(BertForMaskedLM\) has no head for classification",
        ),
    ],
)
def test_rows_that_nobody_can_answer_are_refused_before_any_rank_starts(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]], keys: str, fault: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys = (keys or "task: {kind: classification}").replace("ENCODER", str(folder / "encoder"))
    recipe = tiny_recipe(folder, f"retention.sets={{x: {{{keys}, data: {path}}}}}")
    with pytest.raises(DataError, match=fault):
        prepare_retention(recipe, prepare(recipe))


def test_a_head_without_weights_is_named(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    write_documents(folder / "general.jsonl", 9)
    recipe = masked(folder)
    retention = prepare_retention(recipe, prepare(recipe))
    model: Any = transformers.BertForSequenceClassification.from_pretrained(folder / "encoder")
    (held_out,) = retention.sets
    with pytest.raises(DataError, match=r"has a head for language_modeling: there are no weights for cls\.predictions"):
        open_sibling(
            model,
            masked(folder).model_copy(update={"task": held_out.recipe.task}),
            held_out.task()[0],
            torch.device("cpu"),
        )


def test_the_labels_of_the_rows_decide_which_head_answers(folder: Path, earlier: Path, tmp_path: Path) -> None:
    write_topics(folder)
    model = earlier / "export" / "best"
    sets = ", ".join(
        f"{name}: {{task: {{kind: classification}}, data: {folder}/{rows}.jsonl}}"
        for name, rows in (("old", "test"), ("new", "topics-dev"))
    )
    recipe = topics(folder, model, f"retention={{sequential: false, sets: {{{sets}}}}}")
    retention = prepare_retention(recipe, prepare(recipe))
    assert [(one.name, one.head) for one in retention.sets] == [("old", str(model)), ("new", None)]
    assert retention.sets[0].prepared.facts["label_names"] == ["negative", "positive"]
    assert find_retention(recipe, prepare(recipe)) == described_retention(json.loads(json.dumps(retention.described())))


TEXTS = (
    "general: {{task: {{kind: language_modeling}}, data: {0}/general.jsonl}}, "
    "talk: {{task: {{kind: chat, max_new_tokens: 4, generate_dev_rows: 2}}, data: {0}/talk.jsonl}}"
)


def write_causal_rows(folder: Path) -> None:
    write_causal(folder / "causal", [*GOOD, *BAD, *PLAIN])
    write_documents(folder / "general.jsonl", 15)
    write_documents(folder / "train.jsonl", 24, seed=1)
    write_reviews(folder / "reviews.jsonl", 30)
    talk = [{"role": "user", "content": "the film"}, {"role": "assistant", "content": "good plot"}]
    (folder / "talk.jsonl").write_text(3 * (json.dumps({"messages": talk}) + "\n"), encoding="utf-8")


def test_a_causal_model_answers_texts_and_chats_itself(tmp_path: Path) -> None:
    write_causal_rows(tmp_path)
    recipe = tiny_recipe(
        tmp_path,
        "task={kind: language_modeling}",
        f"model.path={tmp_path}/causal",
        "data.dev=null",
        "data.test=null",
        "train.max_steps=2",
        f"retention.sets={{{TEXTS.format(tmp_path)}}}",
    )
    assert train(recipe, tmp_path / "run", world_size=2)[0] == [True, True]
    assert [(event["set"], event["step"]) for event in events(tmp_path / "run", "retention")] == [
        (name, step) for step in (0, 2, 2) for name in ("general", "talk")
    ]
    results = results_of(tmp_path / "run")["retention"]
    assert results["talk"]["metric"] == "perplexity" and results["general"]["best"]["token_accuracy"] >= 0
    assert len(events(tmp_path / "run", "retention")[1]["answers"]) == 2


def classifying(folder: Path, sets: str, *overrides: str) -> Recipe:
    """A causal model that learns to tell reviews apart."""
    return tiny_recipe(
        folder,
        f"model.path={folder}/causal",
        f"data.train={folder}/reviews.jsonl",
        "data.dev=null",
        "data.test=null",
        "train.max_steps=2",
        f"retention.sets={{{sets}}}",
        *overrides,
    )


def test_a_causal_model_that_learns_to_classify_answers_texts_through_its_old_head(tmp_path: Path) -> None:
    write_causal_rows(tmp_path)
    found = []
    for engine, world_size in (("null", 1), ("zero3", 2)):
        general = TEXTS.format(tmp_path).partition(", talk")[0]
        recipe = classifying(tmp_path, general, f"engine.deepspeed={engine}")
        assert train(recipe, tmp_path / engine, world_size=world_size)[0][0]
        found.append([loss for _, loss, _ in measured(tmp_path / engine)])
    assert found[0] == pytest.approx(found[1], rel=1e-4) and found[0][0] != found[0][1]
    recipe = classifying(tmp_path, TEXTS.format(tmp_path))
    with pytest.raises(DataError, match=r"retention\.sets\.talk: task\.kind: chat generates answers"):
        prepare_retention(recipe, prepare(recipe))
