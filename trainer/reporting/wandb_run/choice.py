"""Whether a run reports to Weights & Biases, and under which names: the recipe decides, then the environment.

wandb itself is not imported here.
"""

import configparser
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shardtune.home import expand_home, home_fault
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import wandb_sync_command

MODES = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""WANDB_MODE, older names included -> mode."""
PUBLIC_SERVER = "https://api.wandb.ai"
VARIABLES = {
    "project": "WANDB_PROJECT",
    "name": "WANDB_NAME",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
    "job_type": "WANDB_JOB_TYPE",
}
"""Key of the section `report` -> the variable that holds where the recipe is silent."""


@dataclass(frozen=True)
class WandbChoice:
    """What was decided about Weights & Biases."""

    mode: str
    """online, offline or disabled."""
    why: str
    project: str
    name: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]
    notes: str | None
    job_type: str
    server: str
    folder: Path
    """Where W&B puts its own files."""
    sources: Mapping[str, str]
    """What decided a name, such as `WANDB_PROJECT`, for each that is no default."""

    def line(self, run_dir: Path) -> str | None:
        """What was decided, and by what, for the user; None if the recipe turns W&B off."""
        if self.mode == "disabled":
            return None if self.why == "report.wandb" else f"W&B is disabled: {self.why}"
        names = {
            "entity": self.entity,
            "project": self.project,
            "run": self.name,
            "group": self.group,
            "tags": " ".join(self.tags) or None,
            "job type": self.job_type if "job type" in self.sources else None,
            "notes": "as given" if self.notes else None,
        }
        shown = [f"{what} {value}{self._by(what)}" for what, value in names.items() if value is not None]
        where = f"{', '.join(shown)}, files in {self.folder}{self._by('files')}"
        if self.mode == "online":
            return f"W&B is online at {self.server} ({self.why}): {where}"
        return f"W&B is offline ({self.why}): {where}; to upload: {wandb_sync_command(run_dir)}"

    def _by(self, what: str) -> str:
        return f" ({self.sources[what]})" if what in self.sources else ""


def choose_wandb(recipe: Recipe, run_dir: Path, environment: Mapping[str, str] = os.environ) -> WandbChoice:
    """What the recipe decides; where it is silent, the variables of W&B; and else whether an API key is found."""
    server = _server(environment)
    mode, why = _mode(recipe.report.wandb, environment, server)
    found = {key: _named(key, getattr(recipe.report, key), environment) for key in VARIABLES}
    sources = {key.replace("_", " "): source for key, (_, source) in found.items() if source}
    sources |= {"run": sources.pop("name")} if "name" in sources else {}
    folder, by_folder = _folder(run_dir, environment)
    return WandbChoice(
        mode,
        why,
        project=found["project"][0] or "shardtune",
        name=found["name"][0] or run_dir.name,
        entity=found["entity"][0] or None,
        group=found["group"][0] or None,
        tags=_tags(recipe, environment),
        notes=found["notes"][0] or None,
        job_type=found["job_type"][0] or "train",
        server=server,
        folder=folder,
        sources=sources | by_folder,
    )


def _named(key: str, by_recipe: object, environment: Mapping[str, str]) -> tuple[str, str]:
    """What a name is, and what decided it; empty if nothing does."""
    variable = VARIABLES[key]
    by_environment = environment.get(variable, "")
    if by_recipe is not None:
        value = ",".join(by_recipe) if isinstance(by_recipe, tuple) else str(by_recipe)
        differs = by_environment and by_environment != value
        return value, f"report.{key}, not {variable}" if differs else f"report.{key}"
    return by_environment, variable if by_environment else ""


def _tags(recipe: Recipe, environment: Mapping[str, str]) -> tuple[str, ...]:
    if recipe.report.tags is not None:
        return recipe.report.tags
    return tuple(filter(None, (tag.strip() for tag in environment.get("WANDB_TAGS", "").split(","))))


def _folder(run_dir: Path, environment: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """Where wandb puts its files, and what decided that."""
    if not (given := environment.get("WANDB_DIR")):
        return run_dir / "wandb", {}
    folder = given if home_fault(given) is not None else expand_home(given)
    return Path(folder).absolute() / "wandb", {"files": "WANDB_DIR"}


def give_wandb_a_home(run_dir: Path) -> None:
    """Without a home directory, makes wandb keep in RUN_DIR/wandb what it would keep there; else it would not start."""
    if home_fault("~") is not None:
        for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(variable, str(run_dir / "wandb"))


def _mode(by_recipe: str, environment: Mapping[str, str], server: str) -> tuple[str, str]:
    """The mode, and what decided it."""
    if by_recipe != "auto":
        return by_recipe, "report.wandb"
    ignored = ""
    if word := environment.get("WANDB_MODE", ""):
        if mode := MODES.get(word.lower()):
            return mode, f"WANDB_MODE={word}"
        ignored = f"; WANDB_MODE={word} is not a mode ({', '.join(MODES)}) and is ignored"
    if (word := environment.get("WANDB_DISABLED", "")).lower() in ("1", "true", "yes"):  # which transformers reads
        return "disabled", f"WANDB_DISABLED={word}{ignored}"
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environment.get(variable):
            return "online", f"{variable} is set{ignored}"
    host = urlsplit(server).netloc
    path = _netrc_path(environment)
    if _has_key(path, host):
        return "online", f"{path} has a key for {host}{ignored}"
    return "offline", f"no API key for {host}: WANDB_API_KEY is not set, and {path} has none{ignored}"


def _server(environment: Mapping[str, str]) -> str:
    """The W&B server: that of the environment, or of `wandb login --host`, or the public one."""
    folder = Path(environment.get("WANDB_CONFIG_DIR") or _in_home(environment, ".config/wandb"))
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(folder / "settings", encoding="utf-8")
        kept = settings.get("default", "base_url", fallback="")
    except (OSError, UnicodeError, configparser.Error):
        kept = ""
    return environment.get("WANDB_BASE_URL") or kept or PUBLIC_SERVER


def _netrc_path(environment: Mapping[str, str]) -> Path:
    """The file that W&B reads for the keys of its servers."""
    if given := environment.get("NETRC"):
        return Path(os.path.expanduser(given))  # noqa: PTH111  without a home it is left as it is
    usual, other = _in_home(environment, ".netrc"), _in_home(environment, "_netrc")
    return other if other.exists() and not usual.exists() else usual


def _in_home(environment: Mapping[str, str], name: str) -> Path:
    return Path(environment.get("HOME") or os.path.expanduser("~")) / name  # noqa: PTH111  as above


def _has_key(path: Path, host: str) -> bool:
    """Whether the file has a password for the host, with or without its port."""
    try:
        known = netrc.netrc(path)
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
    found = known.authenticators(host) or known.authenticators(host.partition(":")[0])
    return found is not None and bool(found[2])
