"""No secret of the environment, of a URL or of a comment is in any file that a run leaves, or in what it sends."""

import io
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtune.errors import ConfigError
from shardtune.launcher.report.page import write_report
from shardtune.launcher.slurm.submission import plan_submission
from shardtune.recipe.load import parse_recipe
from shardtune.redaction import Redactor
from shardtune.run_dir.files import failure_path
from shardtune.run_dir.run import find_run, write_run_dir
from shardtune.trainer.__main__ import _end, _parse, _Process
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.reporting.environment import environment_of
from shardtune.trainer.reporting.reporter import open_reporter
from shardtune.trainer.reporting.wandb_run.upload import upload

SECRETS = st.text("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789", min_size=12, max_size=32)
VARIABLES = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OUR_PROXY_PASSWORD")
RECIPE = """
task: {{kind: classification}}  # our key is hf_{0}x0123456789abcdef
model: {{path: ./none}}
data: {{train: ./rows.jsonl}}
job: {{device: cpu, gpus_per_node: 0}}
report: {{notes: plain words, wandb: offline}}
# password: {0}
# curl https://me:{0}@host/x?token={0}
"""
IN_VALUES = (
    "report.notes=https://me:{}@host/x",
    "report.tags=[a, 'hf_{}x0123456789abcdef']",
    "report.project='password={}'",
    "job.preamble=/x?api_key={}",
    "data.train=https://b.org/x?token={}",
)


def write_run(folder: Path, secret: str) -> Path:
    """A run directory with all that a start of it writes, which has met the secret everywhere."""
    (folder / "recipe.yaml").write_text(RECIPE.format(secret))
    (folder / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    (folder / "none").mkdir()
    os.chdir(folder)
    run = find_run(folder / "recipe.yaml", (), folder / "run")
    write_run_dir(run)
    reporter = open_reporter(
        run.recipe.model_copy(update={"report": run.recipe.report.model_copy(update={"wandb": "disabled"})}),
        run.run_dir,
        Ranks(0, 1, 0, torch.device("cpu")),
        resumed_step=0,
        terminal=None,
    )
    reporter.report("begin")
    reporter.report("environment", **environment_of([("node1", "cpu")], os.environ, folder))
    reporter.report("alert", title=f"401 with {secret}", text=f"https://me:{secret}@host refused", step=1)
    reporter.report("notice", text=f"Authorization: Bearer {secret}")
    answers = [{"prompt": f"?token={secret}", "answer": f"hf_{secret}", "reference": f"password={secret}"}]
    reporter.report("eval", split="dev", step=1, loss=0.5, answers=answers)
    reporter.close()
    process = _Process(_parse([str(run.run_dir)]), io.StringIO(), run.run_dir)
    _end(RuntimeError(f"https://me:{secret}@host: {secret}"), process)
    script = plan_submission(folder / "recipe.yaml", (), folder / "run", None).script
    (run.run_dir / "job.sbatch").write_text(script)
    write_report(run.run_dir)
    return run.run_dir


def files_with(folder: Path, secret: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@settings(max_examples=10)
@given(secret=SECRETS, variable=st.sampled_from(VARIABLES), how=st.sampled_from(("{}", "http://me:{}@proxy:3128")))
def test_no_file_of_a_run_holds_a_secret(
    tmp_path_factory: pytest.TempPathFactory, secret: str, variable: str, how: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY" if "://" in how else variable, how.format(secret))
        patch.chdir(Path.cwd())
        run_dir = write_run(tmp_path_factory.mktemp("run"), secret)
    assert failure_path(run_dir, 0).is_file() and (run_dir / "report.html").is_file()
    assert files_with(run_dir, secret) == []


def test_nothing_that_goes_to_wandb_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "Xq7Rt29LmZk4Vw8PbN3s"
    for variable in VARIABLES:
        monkeypatch.setenv(variable, secret)
    monkeypatch.setenv("WANDB_API_KEY", secret * 2)
    monkeypatch.setenv("WANDB_NOTES", f"see https://me:{secret}@host")
    monkeypatch.setenv("WANDB_TAGS", f"a,hf_{secret}")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    run_dir = write_run(tmp_path, secret)
    with (run_dir / "metrics.jsonl").open("a") as file:  # as an earlier version would have left it
        file.write(json.dumps({"event": "environment", "time": 1.0, "proxy": f"http://me:{secret}@proxy"}) + "\n")
    upload(run_dir, mode="offline")
    assert list(run_dir.glob("wandb/offline-run-*/run-*.wandb"))
    assert files_with(run_dir / "wandb", secret) == [] == files_with(tmp_path / "data", secret)


def test_the_value_of_a_secret_variable_is_refused_in_a_recipe_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "four-plain-words-here")
    with pytest.raises(ConfigError, match="looks like the value of a secret variable") as error:
        parse_recipe(RECIPE.format("x"), ["report.notes=four-plain-words-here, it is"])
    assert "four-plain" not in str(error.value)


@given(secret=SECRETS, how=st.sampled_from(IN_VALUES))
def test_a_secret_in_a_value_of_a_recipe_is_refused_and_not_repeated(secret: str, how: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_recipe(RECIPE.format(secret), [how.format(secret)])
    assert secret not in str(error.value) and "environment" in str(error.value)


def test_a_secret_that_is_not_hidden_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Redactor, "text", lambda _, text: text)
    monkeypatch.chdir(tmp_path)
    found = {Path(name).name for name in files_with(write_run(tmp_path, "Xq7Rt29LmZk4"), "Xq7Rt29LmZk4")}
    assert found == {"recipe.yaml", "metrics.jsonl", "rank-0.failure.json", "report.html"}
