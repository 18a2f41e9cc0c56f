"""A stream of several files: each is read by one rank, and what a step trains on is the same on any number of ranks."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shardtune.recipe.schema import Recipe
from shardtune.rows.source import Faults, Row
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.steps import TrainingSteps, training_steps_of
from shardtune.trainer.data.batches.stream import open_stream
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.data.prepare.sources import Sources
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import TASKS
from shardtune.trainer.tasks.classification.classification import Classification
from tests.support.ranks import run_ranks
from tests.support.runs import curve, tiny_recipe, train, write_tiny
from tests.support.stops import stop_after
from tests.support.tiny import write_reviews

SIZES = {"a/0": 40, "a/1": 9, "a/2": 1, "a/3": 17, "b/0": 23}
ALL = {(name, line) for name, size in SIZES.items() for line in range(1, size + 1)}
Place = tuple[str, int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, size) in enumerate(SIZES.items()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_reviews(tmp_path / f"{name}.jsonl", size, seed=number)
    return write_tiny(tmp_path)


def streaming(folder: Path, *overrides: str) -> Recipe:
    files = f"data.train=[{folder}/a/*.jsonl, {folder}/b/0.jsonl]"
    stream = ("data.streaming=true", "data.shuffle_window=20", "train.max_steps=15", "train.global_batch_size=7")
    return tiny_recipe(folder, files, *stream, *overrides)


def place_of(row: Row) -> Place:
    return f"{row.path.parent.name}/{row.path.stem}", row.line


def on_ranks(recipe: Recipe, world_size: int, body: Callable[[Any, Ranks], Any]) -> list[Any]:
    """What `body(open, ranks)` returns on each rank; `open` opens the stream."""
    prepared = prepare(recipe)

    def opened(ranks: Ranks) -> Any:
        return body(lambda: open_stream(prepared.facts, prepared.meta["columns"], recipe, ranks), ranks)

    return run_ranks(opened, world_size=world_size)


def rows_of(recipe: Recipe, world_size: int, firsts: tuple[int, ...], count: int) -> list[list[list[Place]]]:
    """The places of the rows of `count` steps from each first one on, read by the ranks together."""

    def body(open_: Any, ranks: Ranks) -> Any:
        found = []
        for first in firsts:
            steps = open_().steps(first)
            found.append([{at: place_of(row) for at, row in next(steps).own.items()} for _ in range(count)])
        return found

    by_rank = on_ranks(recipe, world_size, body)
    merged = []
    for number in range(len(firsts)):
        steps = []
        for step in range(count):
            parts = [rank[number][step] for rank in by_rank]
            rows = {at: place for part in parts for at, place in part.items()}
            assert sorted(rows) == list(range(recipe.train.global_batch_size)) and sum(map(len, parts)) == len(rows)
            steps.append([rows[at] for at in range(len(rows))])
        merged.append(steps)
    return merged


def steps_on(recipe: Recipe, world_size: int, body: Callable[[TrainingSteps, Ranks], Any]) -> list[Any]:
    """What `body(steps, ranks)` returns on each rank, with the steps of the recipe's training."""
    prepared = prepare(recipe)

    def training(ranks: Ranks) -> Any:
        task = TASKS["classification"](recipe.task, prepared.facts, load_tokenizer(recipe), load_model_config(recipe))
        return body(training_steps_of(prepared, recipe, BatchMaker(task, ranks, None, 128)), ranks)

    return run_ranks(training, world_size=world_size)


def test_every_row_comes_once_before_any_comes_again_and_sources_are_mixed(folder: Path) -> None:
    (steps,) = rows_of(streaming(folder, "train.global_batch_size=10"), 2, (0,), 27)
    rows = [place for step in steps for place in step]
    epochs = [rows[start : start + 90] for start in (0, 90, 180)]
    assert [set(epoch) for epoch in epochs] == [ALL] * 3 and epochs[0] != epochs[1] != epochs[2]
    for epoch in epochs:  # in each part as in the whole: 23 of 90 rows are of b
        assert all(4 <= sum(name == "b/0" for name, _ in epoch[start : start + 30]) <= 11 for start in (0, 30, 60))


def test_rows_are_shuffled_within_each_lane(folder: Path) -> None:
    (steps,) = rows_of(streaming(folder), 1, (0,), 13)
    lines = [line for step in steps for name, line in step if name == "a/0"][:40]
    # 20 rows are shuffled among each other, of which the largest of the five files has about 9.
    assert sorted(lines) == list(range(1, 41)) != lines
    assert all(abs(at - line) < 10 for at, line in enumerate(lines, start=1))


def test_any_number_of_ranks_has_the_same_rows_and_resumes_at_any_step(folder: Path) -> None:
    recipe = streaming(folder)
    (whole,) = rows_of(recipe, 1, (0,), 45)
    for world_size in (2, 3, 4):
        assert rows_of(recipe, world_size, (0,), 45) == [whole]
    firsts = (1, 5, 12, 13, 25, 38, 40)  # an epoch has 90 rows, twelve steps and 6 rows
    for world_size in (1, 3):
        resumed = rows_of(recipe, world_size, firsts, 5)
        assert resumed == [whole[first : first + 5] for first in firsts]


def test_a_long_resume_reads_in_parts_each_of_which_is_progress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[None] = []
    monkeypatch.setattr("shardtune.trainer.data.batches.stream.PASSED_AT_ONCE", 11)
    monkeypatch.setattr("shardtune.trainer.data.batches.stream.beat", lambda: beats.append(None))
    recipe = streaming(folder)
    (whole,) = rows_of(recipe, 1, (0,), 31)
    assert rows_of(recipe, 2, (11, 30), 1) == [[whole[11]], [whole[30]]]

    def body(open_: Any, ranks: Ranks) -> int:
        next(open_().steps(11))
        return len(beats)

    assert on_ranks(recipe, 2, body) == [7, 7]


def test_each_file_is_read_by_one_rank_and_no_further_than_needed(folder: Path) -> None:
    records = Sources.records

    def body(open_: Any, ranks: Ranks) -> Any:
        read: Counter[str] = Counter()

        def counted(self: Sources, *words: Any) -> Any:
            for path, file_records in records(self, *words):
                name = f"{path.parent.name}/{path.stem}"
                yield path, (read.update([name]) or record for record in file_records)  # type: ignore[func-returns-value]

        Sources.records = counted  # type: ignore[method-assign]  # of this forked rank alone
        steps = open_().steps(0)
        next(steps)
        first = dict(read)
        for _ in range(12):
            next(steps)
        return first, dict(read)

    for world_size, most in ((1, 5), (2, 3), (5, 1), (6, 1)):
        by_rank = on_ranks(streaming(folder), world_size, body)
        files = [name for _, read in by_rank for name in read]
        assert sorted(files) == sorted(SIZES)
        assert max(len(read) for _, read in by_rank) == most
        # At first no more than the windows, about 20 rows; in 13 steps of 7 all 90, and the windows again.
        assert sum(sum(first.values()) for first, _ in by_rank) <= 20 + 5
        assert 90 < sum(sum(read.values()) for _, read in by_rank) <= 90 + 20 + 5


def test_each_example_travels_at_most_once_to_the_rank_that_trains_on_it(folder: Path) -> None:
    exchange = Ranks.exchange

    def body(steps: TrainingSteps, ranks: Ranks) -> Any:
        sent: list[tuple[str, int, int]] = []

        def counted(self: Ranks, values: Any) -> Any:
            for rank, part in enumerate(values):
                kind = "row" if any(isinstance(item, Row) for item in part.values()) else "example"
                sent.extend((kind, at, rank) for at in part)
            return exchange(self, values)

        begun = steps.begin(0, ())
        Ranks.exchange = counted  # type: ignore[method-assign]  # of this forked rank alone
        found = []
        for step in begun:
            used = sum(int(batch.num_targets) for batch in step.micro_batches)
            found.append((list(sent), used, len(step.micro_batches)))
            sent.clear()
        return found

    for world_size in (2, 4):
        by_rank = steps_on(streaming(folder), world_size, body)
        for step in zip(*by_rank, strict=True):
            examples = [(at, rank) for sent, *_ in step for kind, at, rank in sent if kind == "example"]
            assert sorted(at for at, _ in examples) == list(range(7))
            assert Counter(rank for _, rank in examples) == Counter(
                {rank: used for rank, (_, used, _) in enumerate(step)}
            )
            rows = [at for sent, *_ in step for kind, at, _ in sent if kind == "row"]
            assert len(rows) == len(set(rows))
            assert len({num_micro_batches for *_, num_micro_batches in step}) == 1


def test_steps_are_the_same_on_any_number_of_ranks_and_skipped_ones_have_no_batches(folder: Path) -> None:
    def body(steps: TrainingSteps, ranks: Ranks) -> Any:
        found = []
        for step in steps.begin(2, {4, 9}):
            inputs = [row.tolist() for batch in step.micro_batches for row in batch.inputs["input_ids"]]
            labels = [label for batch in step.micro_batches for label in batch.labels.flatten().tolist()]
            tokens = [tuple(token for token in row if token) for row in inputs]
            found.append(
                (step.number, step.num_samples, step.num_targets, step.num_tokens, [*zip(tokens, labels, strict=True)])
            )
        return found

    def together(world_size: int) -> list[Any]:
        by_rank = steps_on(streaming(folder), world_size, body)
        return [
            (*parts[0][:4], sorted(row for part in parts for row in part[4])) for parts in zip(*by_rank, strict=True)
        ]

    one = together(1)
    assert [step[0] for step in one if not step[4]] == [4, 9] and len(one) == 13
    assert together(3) == one


def test_ranks_without_rows_run_the_shortest_one_muted(folder: Path) -> None:
    def body(steps: TrainingSteps, ranks: Ranks) -> Any:
        return [[int(batch.num_targets) for batch in step.micro_batches] for step in steps.begin(9, ())]

    by_rank = steps_on(streaming(folder, "train.global_batch_size=2"), 3, body)
    for parts in zip(*by_rank, strict=True):
        assert sorted(parts) == [[0], [1], [1]]


def test_alone_has_each_row_of_a_step_once_with_its_place(folder: Path) -> None:
    recipe = streaming(folder)
    ((rows,),) = rows_of(recipe, 1, (12,), 1)

    def body(steps: TrainingSteps, ranks: Ranks) -> Any:
        ahead = steps.begin(0, ())
        next(ahead)
        found = [(place, batch.inputs["input_ids"].tolist()) for place, batch in steps.alone(12)]
        return found, next(ahead).number

    one = sorted(steps_on(recipe, 1, body)[0][0])
    assert [place for place, _ in one] == sorted(f"{folder}/{name}.jsonl:{line}" for name, line in rows)
    for world_size in (2, 3):
        by_rank = steps_on(recipe, world_size, body)
        assert {len(found) for found, _ in by_rank} == {-(-7 // world_size)} and {at for _, at in by_rank} == {1}
        assert sorted(pair for found, _ in by_rank for pair in found if pair[0] is not None) == one


def failure_of(recipe: Recipe, world_size: int) -> list[str]:
    """With what words each rank fails in steps 0 to 14."""

    def body(steps: TrainingSteps, ranks: Ranks) -> str:
        with pytest.raises(Exception, match="") as raised:
            list(steps.begin(0, ()))
        return f"{type(raised.value).__name__}: {raised.value}"

    return steps_on(recipe, world_size, body)


def test_rows_that_cannot_be_read_or_do_not_fit_are_named_alike_on_all_ranks(folder: Path) -> None:
    for name in ("a/1", "a/3"):  # of which no row is among the first ones of its source
        file = folder / f"{name}.jsonl"
        bad = '{"text": "so so", "label": "neutral"}\n{"text": ""}\n'
        file.write_text(bad + file.read_text())
    (one,) = failure_of(streaming(folder), 1)
    places = [one.index(f"{name}.jsonl:{line}: ") for name in ("a/1", "a/3") for line in (2, 1)]
    assert one.startswith("BadRowsError") and places == sorted(places)
    for world_size in (2, 3):
        assert failure_of(streaming(folder), world_size) == [one] * world_size
    with (folder / "a/1.jsonl").open("a") as file_:
        file_.write('{"text"\n')
    skipping = streaming(folder, "data.on_bad_row=skip", "train.global_batch_size=9")
    for world_size in (1, 3):
        (steps,) = rows_of(skipping, world_size, (0,), 10)
        assert len({place for step in steps for place in step}) == 90


def test_rows_that_cannot_be_encoded_are_named_alike_on_all_ranks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Classification.encode

    def refusing(self: Classification, rows: Sequence[Row], *words: Any, **options: Any) -> Any:
        faults = Faults()
        for row in rows:
            if row.line % 3 == 0:
                faults.add(row, "cannot be encoded")
        faults.raise_if_any()
        return encode(self, rows, *words, **options)

    recipe = streaming(folder)
    ((rows,),) = rows_of(recipe, 1, (0,), 1)
    prepare(recipe)
    monkeypatch.setattr(Classification, "encode", refusing)
    bad = [f"{folder}/{name}.jsonl:{line}" for name, line in rows if line % 3 == 0]
    assert len(bad) > 1
    for world_size in (1, 2, 4):
        failures = failure_of(recipe, world_size)
        assert len(set(failures)) == 1
        assert sorted(bad, key=failures[0].index) == bad


def test_files_without_rows_are_passed_over_and_a_stream_without_any_is_refused(folder: Path) -> None:
    (folder / "a" / "4.jsonl").write_text("\n")
    (steps,) = rows_of(streaming(folder, "train.global_batch_size=9"), 3, (0,), 10)
    assert {place for step in steps for place in step} == ALL
    recipe = streaming(folder)
    prepared = prepare(recipe)
    for file in folder.glob("[ab]/*.jsonl"):
        file.write_text("\n")

    def body(ranks: Ranks) -> str:
        stream = open_stream(prepared.facts, prepared.meta["columns"], recipe, ranks)
        with pytest.raises(Exception, match="no rows left to stream") as raised:
            next(stream.steps(0))
        return str(raised.value)

    assert run_ranks(body, world_size=2) == ["data.train: no rows left to stream"] * 2


def test_training_on_streamed_files_is_the_same_on_any_number_of_ranks_and_resumes_on_another(
    folder: Path, tmp_path: Path
) -> None:
    recipe = streaming(folder, "train.max_steps=14", "data.test=null")
    whole = curve(train(recipe, tmp_path / "whole", world_size=1)[1])
    assert [step for step, _, _ in whole] == list(range(1, 15))
    assert train(recipe, tmp_path / "other", world_size=3, before=stop_after(6))[0] == [False] * 3
    other = curve(train(recipe, tmp_path / "other", world_size=2)[1])
    for one, two in zip(whole, other, strict=True):
        assert one == pytest.approx(two, rel=1e-3)
