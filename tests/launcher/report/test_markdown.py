"""A report for a pull request: tables that GitHub reads, without a link, a name or markup of anybody else's."""

import json
import re
from pathlib import Path

from shardtune.launcher.report.comparison import compare_runs
from shardtune.launcher.report.markdown import escaped, render_run, render_runs, render_table
from shardtune.launcher.report.parts import Table
from shardtune.launcher.report.record import read_record
from tests.launcher.report.test_page import EVAL, START, STEP, write_run

CONFIG = """\
task: {kind: classification}
model: {path: "org/na|me"}
data: {train: "/a`b|c.csv", dev: {fraction: 0.05}}
optim: {lr: 3.0e-4}
"""


def test_a_run_is_its_summary_its_results_and_its_settings(tmp_path: Path) -> None:
    results = {"step": 9, "best_step": 9, "dev": {**EVAL, "f1_macro": 0.5}, "chosen_by": {"metric": "accuracy"}}
    facts = json.dumps({"label_names": ["好", "b"]})
    alert = {"event": "alert", "title": "spike", "text": "see https://x.org and www.x.org, @somebody <b>", "step": 1}
    events = [START, {**STEP, "step": 9}, alert]
    write_run(tmp_path, events, config_yaml=CONFIG, results_json=json.dumps(results), facts_json=facts)
    text = render_run(read_record(tmp_path))
    assert "On dev, accuracy is 0.8750 (95% interval 0.5291 to 0.9776; Wilson, 7 of 8)." in text
    assert "| accuracy | 0.8750 \\[0.5291, 0.9776\\] |" in text
    assert "| 好 | 1.0000 | 0.7500 | 0.8571 | 4 | 3 |" in text
    assert "| optim.lr | `0.0003` |" in text and "| model.path | `org/na\\|me` |" in text
    assert "| data.train | ``/a`b\\|c.csv`` |" in text
    assert not re.search(r"https?://|www\.|\s@\w|<b>|\]\(", text)


def test_a_run_that_has_just_begun_has_a_report_too(tmp_path: Path) -> None:
    write_run(tmp_path, [])
    assert "No training step has been done yet." in render_run(read_record(tmp_path))


def test_several_runs_are_one_table(tmp_path: Path) -> None:
    records = []
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        config = f"{CONFIG}train: {{seed: {seed}}}\n"
        records.append(
            read_record(
                write_run(tmp_path / name, [START, {**STEP, "step": 1}, EVAL | {"step": 1}], config_yaml=config)
            )
        )
    text = render_runs(compare_runs(records))
    assert "They differ in their seeds alone." in text and "0.8750 ± 0.0000 over 2 seeds" in text
    assert "| a | `1` |" in text and "| b | `2` |" in text


def test_every_row_of_a_table_has_its_cells() -> None:
    table = Table("t|t", ("a", "b"), [("x|y", "1\n2"), ("`", "")] * 30)
    lines = render_table(table).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 42 and all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert lines[-1] == "20 more rows are not shown."


def test_what_would_be_markup_is_text() -> None:
    assert escaped("*a* _b_ [c](d) <e> `f` #1 ~~g~~ | h\\") == (
        "\\*a\\* \\_b\\_ \\[c\\](d) \\<e\\> \\`f\\` \\#1 \\~\\~g\\~\\~ \\| h\\\\"
    )
