"""What is a secret, and that no text keeps it."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.redaction import HIDDEN, RedactingStream, hide_in_log_records, redactor, secret_in, secret_values

LETTERS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", min_size=20, max_size=40)
TOKENS = [
    "hf_AbCdEfGhIjKlMnOpQrStUvWx",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuv",
    "glpat-abcdefghij0123456789",
    "sk-proj-abcdefghij0123456789ABCD",
    "xoxb-123456789012-abcdefghijkl",
    "local-0123456789abcdef0123456789abcdef01234567",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
]
PLAIN = [
    "hub:stanfordnlp/sst2",
    "train.global_batch_tokens=4096 optim.lr=2e-5",
    "tokens_per_s: 12345.6, padding_efficiency 0.91",
    "https://wandb.our.org:8080/our-team/project?x=step",
    "ssh://git@github.com/us/code.git",
    "model.revision: 0123456789abcdef0123456789abcdef01234567",
    "the tokenizer has no token='<pad>'; key: value",
    "nvcr.io#nvidia/pytorch:25.01-py3",
    "--mail-user=me@example.org",
]


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_known_by_its_form_anywhere_in_a_text(token: str) -> None:
    assert token not in redactor({}).text(f"401 for {token}, says the hub")
    assert secret_in(f"x {token} y") == "an access token"


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redactor({"HOME": "/home/me", "SHARDTUNE_LEASE": "lease1234"}).text(text) == text
    assert secret_in(text) is None


@given(
    secret=LETTERS,
    shape=st.sampled_from(
        [
            "https://user:{}@host.org/x",
            "http://{}@proxy:3128",
            "https://b.org/f?a=1&token={}",
            "https://b.org/f?X-Amz-Signature={}&b=2",
            "Authorization: Bearer {}",
            "password={}",
            '"api_key": "{}"',
            "WANDB_API_KEY={}",
            "AWS_SECRET_ACCESS_KEY: {}",
        ]
    ),
    around=st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=20),
)
def test_a_secret_in_a_url_a_header_or_an_assignment_is_hidden(secret: str, shape: str, around: str) -> None:
    text = f"{around} {shape.format(secret)} {around}"
    hidden = redactor({}).text(text)
    assert secret not in hidden.replace(around, "") and HIDDEN in hidden
    assert secret_in(text) is not None


@given(
    name=st.sampled_from(["HF_TOKEN", "WANDB_API_KEY", "OUR_DB_PASSWORD", "aws_secret_access_key", "MY_PAT"]),
    secret=st.text(st.characters(exclude_categories=("C", "Z")), min_size=6, max_size=60),
    before=st.text(max_size=20),
)
def test_a_secret_of_the_environment_is_hidden_whatever_it_looks_like(name: str, secret: str, before: str) -> None:
    hidden = redactor({name: secret})
    value = hidden.value({"text": f"{before}{secret}", "list": [secret, 1, None, {secret: secret}]})
    assert secret not in value["text"].replace(HIDDEN, "") or secret in before
    assert value["list"] == [HIDDEN, 1, None, {HIDDEN: HIDDEN}]


def test_the_password_of_a_proxy_is_hidden_wherever_it_is_quoted() -> None:
    hidden = redactor({"https_proxy": "http://me:sesame99@proxy:3128"})
    assert hidden.text("407 for me with sesame99") == "407 for me with ***"


def test_words_of_the_environment_that_are_no_secret_are_not_hidden() -> None:
    kept = {
        "TOKENIZERS_PARALLELISM": "false",
        "SSH_AUTH_SOCK": "/tmp/agent.1",
        "WANDB_IDENTITY_TOKEN_FILE": "/tmp/jwt",
        "HF_TOKEN": "none",
        "PWD": "/home/me",
    }
    assert redactor(kept).known is None


def test_secrets_are_found_at_their_keys_in_a_recipe() -> None:
    values = {"data": {"train": [{"path": "https://u:pw123@h/x"}]}, "report": {"notes": "fine"}}
    assert list(secret_values(values)) == [(("data", "train", 0, "path"), "a URL with a password")]


def test_prints_and_log_records_of_any_library_come_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "open-sesame")
    before = logging.getLogRecordFactory()
    try:
        hide_in_log_records()
        record = logging.getLogger("x").makeRecord(
            "x", 20, "f", 1, "to %s", ("https://u:open@h and open-sesame",), None
        )
    finally:
        logging.setLogRecordFactory(before)
    assert record.getMessage() == "to https://***@h and ***"
    raw = io.BytesIO()
    stream = RedactingStream(raw, encoding="utf-8", write_through=True)
    print("key", "open-sesame", json.dumps({"a": "open-sesame"}), file=stream)
    assert raw.getvalue() == b'key *** {"a": "***"}\n'
