"""The rules that `make lint` does not hold: who may import which library, and how large things may grow."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("launcher", "trainer", "shardtune")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TRACKERS = {"mlflow", "swanlab", "tensorboard", "trackio"}
HEAVY = {"torch", "deepspeed", "transformers", "datasets", "wandb", "peft", "bitsandbytes"} | TRACKERS
VAGUE = {"utils.py", "util.py", "common.py", "helpers.py", "base.py", "manager.py", "misc.py"}


def imports(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """The modules that a file imports, all of them or only those of its import time; not those for type checking."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        pending.extend(ast.iter_child_nodes(node))


def names_used(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        f"{n.value.id}.{n.attr}"
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def importers(package: str) -> set[str]:
    return {name(path) for path in MODULES if any(module.split(".")[0] == package for module in imports(path))}


def test_each_library_belongs_to_one_module() -> None:
    assert importers("deepspeed") == {"trainer/engine/deepspeed_engine.py"}
    assert importers("wandb") == {"trainer/reporting/wandb_run/session.py"}
    assert importers("peft") == {"trainer/model/lora.py"}
    assert all(importers(tracker) == {f"shardtune/run_dir/trackers/{tracker}.py"} for tracker in TRACKERS)
    assert importers("bitsandbytes") == {"trainer/model/quantized/formats.py"}


def test_textual_is_the_terminals() -> None:
    rooms = {path.rpartition("/")[0] for path in importers("textual") | importers("textual_plotext")}
    assert rooms == {"launcher/runs/terminal"}
    opening = {
        name(path)
        for path in MODULES
        if any("runs.terminal" in module for module in imports(path, at_import_time=True))
    }
    assert {path.rpartition("/")[0] for path in opening} == {"launcher/runs/terminal"}  # others only when it opens


def test_processes_are_started_by_the_launcher_and_to_ask_nvidia_smi_and_git() -> None:
    asking = {"shardtune/machine/nvidia_smi.py", "shardtune/machine/repository.py"}
    assert importers("subprocess") == {"launcher/start/execute.py"} | asking


def test_the_environment_is_read_where_it_belongs() -> None:
    readers = {name(path) for path in MODULES if "os.environ" in names_used(path)}
    launching = {"launcher/start/execute.py", "launcher/slurm/allocation.py"}
    this_rank = {"trainer/distributed/rank_env.py", "trainer/distributed/ranks.py"}
    others = {
        "shardtune/safe_path.py",
        "shardtune/home.py",
        "shardtune/run_dir/trackers/mlflow.py",
        "shardtune/redaction.py",
        "trainer/data/prepare/work_queue.py",
        "trainer/reporting/environment.py",
        "trainer/reporting/wandb_run/choice.py",
        "trainer/reporting/wandb_run/session.py",
        "trainer/setup/compiler/cache.py",
        "trainer/setup/compiler/refusals.py",
    }
    assert readers == launching | this_rank | others


def calls(path: Path) -> Iterator[tuple[str, set[str]]]:
    """The functions that a file calls, as they are written, each with the names of its keyword arguments."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg or "" for keyword in node.keywords}


def test_nothing_that_is_read_can_run_code() -> None:
    everywhere = [*MODULES, *(ROOT / "demo").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    between_ranks = {"trainer/distributed/ranks.py"}  # whose processes are all ours, as in torch's own gather
    assert {name(path) for path in everywhere if {m.split(".")[0] for m in imports(path)} & unsafe} <= between_ranks
    called = [(name(path), function, keywords) for path in everywhere for function, keywords in calls(path)]
    never = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
    assert not [call for call in called if call[1] in never]
    arrays = [call for call in called if call[1] in ("np.load", "numpy.load", "np.lib.format.read_array")]
    assert arrays and not [call for call in arrays if "allow_pickle" not in call[2]]
    assert "allow_pickle=True" not in "".join(path.read_text(encoding="utf-8") for path in everywhere)


def test_the_code_of_a_model_is_never_run() -> None:
    loaded = [call for path in MODULES if name(path).startswith("trainer") for call in calls(path)]
    auto = re.compile(
        r"(transformers\.)?Auto\w+\.from_pretrained|auto_model\.from_pretrained|model_class\.from_pretrained"
    )
    found = [keywords for function, keywords in loaded if auto.fullmatch(function)]
    assert len(found) >= 7 and not [keywords for keywords in found if not {"trust_remote_code", ""} & keywords]


def test_the_loop_knows_torch_and_our_protocols_only() -> None:
    roots = {module.split(".")[0] for module in imports(ROOT / "trainer/loop.py")}
    assert roots <= {"collections", "torch", "shardtune"}


def test_the_loop_is_short() -> None:
    tree = ast.parse((ROOT / "trainer/loop.py").read_text(encoding="utf-8"))
    (step,) = [
        node for node in ast.walk(tree) if isinstance(node, ast.For) and getattr(node.target, "id", "") == "step"
    ]
    assert step.end_lineno is not None
    assert step.end_lineno - step.lineno < 20


@pytest.mark.parametrize("room", ["launcher", "shardtune"])
def test_what_reads_recipes_imports_nothing_heavy(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        heavy = {module for module in imports(path, at_import_time=True) if module.split(".")[0] in HEAVY}
        assert not heavy, f"{name(path)}: {heavy}"


def test_planning_a_job_loads_no_torch() -> None:
    program = (
        "import sys, shardtune.launcher.cli, shardtune.launcher.plan.job, shardtune.launcher.start.execute;"
        " print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not (HEAVY | {"textual"}) & {module.split(".")[0] for module in loaded.split()}


@pytest.mark.parametrize("room", ROOMS)
def test_no_folder_holds_more_than_a_glance_takes_in(room: str) -> None:
    folders = {path.parent for path in MODULES if path.is_relative_to(ROOT / room)}
    sizes = {folder: len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) for folder in folders}
    assert {folder.relative_to(ROOT): size for folder, size in sizes.items() if size > 12} == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [name(path) for path in MODULES if path.name in VAGUE]


def test_every_module_says_what_it_decides() -> None:
    silent = [name(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not silent
