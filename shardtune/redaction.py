"""What of a text is a secret, and the text without it.

Every outlet of a run (logs, metrics, W&B, report, job script) passes its texts through here.
"""

import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HIDDEN = "***"
SHORTEST = 6
"""A value of the environment shorter than this is left alone: `true` or `1` stand in every text."""
CLEARLY_SECRET = 16
"""A shorter value of the environment may stand in a recipe by chance, as the word `sentiment` does."""

_NAME = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PWD|PASS|CREDENTIALS?|PAT|COOKIE)($|_)", re.I)
"""Names of environment variables that hold secrets."""
_NOT_SECRET = re.compile(r"(^PWD$|^OLDPWD$|^SHARDTUNE_|_(FILE|PATH|DIR|SOCK|URL|NAME|ID)$)", re.I)
"""Names that only look so, or whose value names the place of a secret. (AWS_ACCESS_KEY_ID is found by its form.)"""
_TOKEN = re.compile(
    r"\b(?:"
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|wandb_v\d_\w{16,}|local-[0-9a-f]{40}"  # W&B
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{16,}"  # AWS, Google
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|sk-[A-Za-z0-9][\w-]{18,}|xox[abprs]-[\w-]{10,}|dapi[0-9a-f]{32}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"  # a JSON web token
    r")"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_USER = re.compile(r"(?<=://)[^\s/?#\"'<>]+(?=@)")
"""The user and the password of a URL; also a user alone, in whose place tokens are given."""
_PLAIN_USER = re.compile(r"[a-z_][a-z0-9_-]{0,15}", re.I)
_PARAMETER = re.compile(
    r"([?&](?:[\w-]*(?:token|key|secret|password|passwd|signature|credential)|sig|auth|pwd)=)[^&\s#\"'<>]+", re.I
)
_BEARER = re.compile(r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{12,}", re.I)
_ASSIGNED = re.compile(
    r"\b(\w*(?:api_?key|secret(?:_access)?_key|access_key|password|passwd|client_secret|(?:auth|access|refresh)_token"
    r"|hf_token|wandb_key)[\"']?\s*[=:]\s*[\"']?)(?!null\b|None\b|\*\*\*)[^\s\"',;&<>{}\[\]]{4,}",
    re.I,
)


@dataclass(frozen=True)
class Redactor:
    """Hides what looks like a secret, and the secrets that the environment holds."""

    known: re.Pattern[str] | None
    """The values of variables such as HF_TOKEN; None if there are none."""

    def text(self, text: str) -> str:
        """The text with every secret replaced by HIDDEN."""
        if self.known is not None:
            text = self.known.sub(HIDDEN, text)
        if "://" in text:
            text = _USER.sub(_hide_user, text)
        if "PRIVATE KEY" in text:
            text = _PRIVATE_KEY.sub(HIDDEN, text)
        text = _TOKEN.sub(HIDDEN, text)
        if "=" in text or ":" in text:
            text = _ASSIGNED.sub(_keep_name, _PARAMETER.sub(_keep_name, text))
        return _BEARER.sub(_keep_name, text)

    def value(self, value: Any) -> Any:
        """A value of JSON's types with every secret hidden in its texts, those of its keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        return value


NOTHING_KNOWN = Redactor(None)


def redactor(environment: Mapping[str, str] = os.environ) -> Redactor:
    """The redactor that knows the secrets which this environment holds now."""
    known = sorted(set(_secrets_of(environment)), key=len, reverse=True)
    return Redactor(re.compile("|".join(map(re.escape, known))) if known else None)


def redact(text: str) -> str:
    """The text without secrets, those of this process's environment included."""
    return redactor().text(text)


def secret_in(text: str, hidden: Redactor = NOTHING_KNOWN) -> str | None:
    """What a value of a recipe holds that belongs nowhere but into the environment; None if it holds no secret."""
    if hidden.known is not None and any(len(found) >= CLEARLY_SECRET for found in hidden.known.findall(text)):
        return "the value of a secret variable of the environment"
    if _TOKEN.search(text) or _PRIVATE_KEY.search(text):
        return "an access token"
    if any(_hide_user(match) == HIDDEN for match in _USER.finditer(text)):
        return "a URL with a password"
    if _PARAMETER.search(text):
        return "a URL with a key"
    return "a password or key" if _ASSIGNED.search(text) or _BEARER.search(text) else None


def secret_values(
    values: Any, hidden: Redactor = NOTHING_KNOWN, key_path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """The key path of each text in these values, or of a key of theirs, that holds a secret, and what it holds."""
    if isinstance(values, str) and (what := secret_in(values, hidden)) is not None:
        yield key_path, what
    elif isinstance(values, Mapping):
        for key, inner in values.items():
            if isinstance(key, str) and (what := secret_in(key, hidden)) is not None:
                yield key_path, what
            yield from secret_values(inner, hidden, (*key_path, key))
    elif isinstance(values, list | tuple):
        for number, inner in enumerate(values):
            yield from secret_values(inner, hidden, (*key_path, number))


class RedactingStream(io.TextIOWrapper):
    """A text stream that hides secrets in what Python writes to it: prints, warnings, tracebacks, log records."""

    def write(self, text: str, /) -> int:
        super().write(redact(text))
        return len(text)


def hide_in_log_records() -> None:
    """Makes every log record of this process free of secrets, whatever handler it comes to."""
    make: Callable[..., logging.LogRecord] = logging.getLogRecordFactory()

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            record.msg, record.args = redact(record.getMessage()), None
        except Exception:  # a message that does not fit its arguments: logging itself reports it
            return record
        return record

    logging.setLogRecordFactory(make_redacted)


def _secrets_of(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        for match in _USER.finditer(value):
            password = match.group().partition(":")[2]
            if len(password) >= SHORTEST:
                yield password
        value = value.strip()
        if len(value) >= SHORTEST and _NAME.search(name) and not _NOT_SECRET.search(name) and not _is_path(value):
            yield value


def _is_path(value: str) -> bool:
    """Whether it names a file, which holds the secret."""
    try:
        return value[0] in "/~" and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _hide_user(match: re.Match[str]) -> str:
    """A plain user name, as in ssh://git@host, is no secret."""
    return match.group() if _PLAIN_USER.fullmatch(match.group()) else HIDDEN


def _keep_name(match: re.Match[str]) -> str:
    return f"{match.group(1)}{HIDDEN}"
