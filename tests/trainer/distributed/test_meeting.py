"""What rank 0 finds out for all: the other ranks look at no data file, and hear of what is wrong."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from shardtune.errors import DataError
from shardtune.recipe.load import parse_recipe, render_recipe
from shardtune.recipe.schema import Recipe
from shardtune.rows.source_files import FindError
from shardtune.run_dir.run import find_run
from shardtune.trainer.data.prepare.prepare import described_data, find_prepared, prepare
from shardtune.trainer.distributed.meeting import Answer, settled_by_zero
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.many_ranks import file_calls
from tests.support.ranks import run_ranks
from tests.support.runs import RECIPE
from tests.support.tiny import write_encoder

NUM_FILES = 200


def settle(ranks: Ranks, folder: Path, *, found: str | None, fault: str | None = None) -> tuple[str, list[str]]:
    """The answer on this rank, and what it has done for it; rank 2 is the first of another machine."""
    os.environ["LOCAL_RANK"] = {0: "0", 1: "1", 2: "0"}[ranks.rank]
    done: list[str] = []

    def look() -> Answer | None:
        done.append("look")
        if fault is not None:
            raise FindError("x.csv", fault)
        return None if found is None else {"found": found}

    def work() -> Answer:
        done.append("work")
        return {"found": f"by {ranks.rank}"}

    try:
        return settled_by_zero(dist.FileStore(str(folder / "store"), 3), look, work)["found"], done
    except DataError as error:
        return str(error), done


def test_one_rank_looks_for_all(tmp_path: Path) -> None:
    answers = run_ranks(lambda ranks: settle(ranks, tmp_path, found="there"), world_size=3)
    assert answers == [("there", ["look"]), ("there", []), ("there", [])]


def test_one_rank_of_each_machine_takes_part_in_the_work(tmp_path: Path) -> None:
    answers = run_ranks(lambda ranks: settle(ranks, tmp_path, found=None), world_size=3)
    assert answers[0] == ("by 0", ["look", "work"])
    assert answers[1] == ("by 0", [])
    assert answers[2][0] == "by 0" and answers[2][1] in (["work"], []), "unless it was done before"


def test_what_is_wrong_is_an_error_on_all_ranks(tmp_path: Path) -> None:
    answers = run_ranks(lambda ranks: settle(ranks, tmp_path, found="there", fault="bad"), world_size=3)
    assert [text for text, _ in answers] == ["x.csv: bad"] * 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe of NUM_FILES data files, which are prepared."""
    folder = tmp_path_factory.mktemp("many")
    write_encoder(folder / "encoder")
    (folder / "data").mkdir()
    for number in range(NUM_FILES):
        row = {"text": f"the film was {'good' if number % 2 else 'bad'}", "label": number % 2}
        (folder / "data" / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
    data = f"data={{train: {folder}/data, cache_dir: {folder}/cache, deduplicate: none, max_tokens: 64}}"
    recipe = parse_recipe(RECIPE.format(folder=folder), [data])
    prepare(recipe, num_processes=1)
    return recipe


def test_at_a_start_one_rank_looks_at_the_data_files_and_the_others_at_none(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(recipe.data.cache_dir).parent
    with file_calls(folder, monkeypatch) as of_zero:
        prepared = find_prepared(recipe, num_ranks=8)
    assert prepared is not None
    assert NUM_FILES <= sum(of_zero.values()) <= 12 * NUM_FILES

    sent = json.dumps(prepared.described())
    with file_calls(folder, monkeypatch) as of_another:
        told = described_data(json.loads(sent))
        train = told.split("train")
        assert len(train) == NUM_FILES and len(train.examples(np.array([3, 4]))) == 2
    assert sum(of_another.values()) <= 10


def test_only_rank_zero_looks_whether_the_paths_of_a_recipe_exist(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(render_recipe(recipe))
    folder = Path(recipe.data.cache_dir).parent
    for checks_paths in (True, False):
        with file_calls(folder, monkeypatch) as calls:
            find_run(tmp_path / "recipe.yaml", [], tmp_path / "run", checks_paths=checks_paths)
        assert sum(calls.values()) > NUM_FILES if checks_paths else sum(calls.values()) <= 20
