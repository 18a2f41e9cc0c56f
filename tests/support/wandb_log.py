"""Reads the log that wandb writes: its records, one by one, each checked against its checksum."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEAD = 32 * 1024, 7
FULL, FIRST, LAST = 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: blocks of 32 KiB with pieces, as in LevelDB's log, after a header of 7 bytes."""
    data = path.read_bytes()
    assert data[:4] == b":W&B", path
    at, parts = HEAD, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:  # the rest of a block is too short for the head of a piece
            at += BLOCK - at % BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + HEAD])
        piece = data[at + HEAD : at + HEAD + length]
        assert zlib.crc32(bytes([kind]) + piece) & 0xFFFFFFFF == checksum, f"{path}: damaged at byte {at}"
        parts = piece if kind in (FULL, FIRST) else parts + piece
        at += HEAD + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


def of_kind(path: Path, kind: str) -> list[Any]:
    """The records of one kind, such as `history`."""
    return [getattr(record, kind) for record in records(path) if record.WhichOneof("record_type") == kind]


def history(path: Path) -> list[dict[str, Any]]:
    """The rows of the history."""
    return [items(record.item) for record in of_kind(path, "history")]


def items(given: Any) -> dict[str, Any]:
    """Key -> value of the items of a record."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in given}
