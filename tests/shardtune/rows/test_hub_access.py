"""A hub that cannot be reached is one line within seconds, and the cache is used all the same."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

from shardtune.errors import DataError
from shardtune.rows import hub_access
from shardtune.rows.hub import dataset_digest
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import FindError
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from tests.support.runs import tiny_recipe


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a hub that takes connections and never answers."""
    monkeypatch.setattr(hub_access, "PATIENCE_S", 0.3)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    hub_access.hub_fault.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        yield endpoint
    hub_access.hub_fault.cache_clear()


def test_a_hub_that_never_answers_is_refused_within_seconds(
    silent: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe(tmp_path)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": "owner/model"})})
    began = time.monotonic()
    for load in (load_model_config, load_tokenizer):
        with pytest.raises(DataError) as error:
            load(recipe)
        (line,) = str(error.value).splitlines()
        assert line.startswith(
            f"model.path: 'owner/model' is not a folder in {Path.cwd()}, the hub cannot be reached ("
        )
        assert silent in line
        assert line.endswith("hf download owner/model")
    with pytest.raises(
        FindError, match=f"hf:owner/name: the hub cannot be reached .{silent}.*, and its cache lacks it"
    ):
        dataset_digest(SourceConfig(path="hf:owner/name"), "train")
    assert time.monotonic() - began < 5
    (said,) = [record.getMessage() for record in caplog.records if record.name == hub_access.__name__]
    assert said.startswith(f"the Hugging Face hub cannot be reached ({silent}") and "Retrying" not in caplog.text


def test_a_hub_that_the_user_has_turned_off_is_not_asked(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_access, "_ask", lambda endpoint: pytest.fail("asked"))
    assert hub_access.hub_fault() is None


def test_a_hub_that_refuses_is_reached_and_one_that_is_not_there_is_not(silent: str) -> None:
    answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        threading.Thread(target=answer_once, daemon=True).start()
        assert hub_access._ask(f"http://127.0.0.1:{port}") is None
    fault = hub_access._ask(f"http://127.0.0.1:{port}")
    assert fault is not None and fault.startswith(f"http://127.0.0.1:{port}")
