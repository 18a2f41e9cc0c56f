"""What caches hold: values come back equal, and bytes of a stranger run nothing."""

import json
import math
import pickle
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from shardtune.rows.row_faults import FAULT_CLASSES, Faults, RowLocation
from shardtune.trainer.data.stored import UnstorableError, from_bytes, row_line, row_of_line, to_bytes


class Pair(NamedTuple):
    name: str
    numbers: "np.ndarray[Any, Any]"


@dataclass(frozen=True, slots=True)
class Part:
    path: Path
    counts: Counter[tuple[str, int]]


class Opens:
    """What a stranger would put into a pickle."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_values_and_objects_of_named_classes_come_back_equal() -> None:
    value = {
        ("a", 1): [Part(Path("a b"), Counter({("x", 1): 3})), None, True, -1.5, math.inf, "\ud800 \u2028 é"],
        None: ({1, 2}, {}, [], (), {"dict": [1]}, {"array": 0}),
        3: Pair("p", np.arange(3, dtype=np.uint64) + np.uint64(2**63)),
    }
    back = from_bytes(to_bytes(value, (Pair, Part)), (Pair, Part))
    assert back[3].numbers.dtype == np.uint64
    assert back[3].numbers.tolist() == value[3].numbers.tolist()
    assert {key: item for key, item in back.items() if key != 3} == {k: item for k, item in value.items() if k != 3}
    assert type(back[("a", 1)][0].counts) is Counter


def test_faults_come_back_and_report_the_same() -> None:
    faults = Faults()
    for line in range(20):
        faults.add(RowLocation(f"a.csv:{line}", (0, Path("a.csv"), line, 0)), f"label {line}: expected a word, got 'x'")
    faults.add("b.csv", "no column")
    back = from_bytes(to_bytes(faults, FAULT_CLASSES), FAULT_CLASSES)
    assert (str(back), back.first, back.rows, back.reasons) == (str(faults), faults.first, faults.rows, faults.reasons)
    back.add("c.csv", "no column")
    assert back.num_rows == 20


def test_an_object_of_another_class_is_neither_stored_nor_restored() -> None:
    with pytest.raises(UnstorableError, match="Part cannot be stored"):
        to_bytes([Part(Path(), Counter())], (Pair,))
    stored = to_bytes([Part(Path(), Counter())], (Part,))
    with pytest.raises(ValueError, match="Part is not expected here"):
        from_bytes(stored, (Pair,))


@pytest.mark.parametrize("make", ["pickle", "array of pickles", "nothing", "not a value", "too few fields"])
def test_other_bytes_are_an_error_and_run_nothing(tmp_path: Path, make: str) -> None:
    opened = tmp_path / "opened"
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([Opens(opened)], dtype=object), allow_pickle=True)
    data = {
        "pickle": pickle.dumps(Opens(opened)),
        "array of pickles": json.dumps([1, {"array": 0}]).encode() + b"\n" + objects.read_bytes(),
        "nothing": b"",
        "not a value": b'[0, {"eval": ["1"]}]\n',
        "too few fields": b'[0, {"Part": ["x"]}]\n',
    }[make]
    with pytest.raises(ValueError):
        from_bytes(data, (Part,))
    assert not opened.exists()
    pickle.loads(pickle.dumps(Opens(opened)))
    assert opened.exists(), "the bytes would have had an effect"


def test_rows_come_back_with_values_that_json_does_not_have() -> None:
    row = {"when": datetime(2024, 2, 29, 1, 2, 3, 4), "day": date(1, 1, 1), "for": timedelta(-1, 5, 7), "b": b"\xff\0"}
    row |= {"price": Decimal("1.10"), "text": "\ud800\u2028\n", "nan": math.nan, "deep": [{"a": [None, 2**80]}]}
    (back,) = row_of_line(row_line([row]))
    assert math.isnan(back.pop("nan"))
    assert math.isnan(row.pop("nan"))
    assert back == row
    assert row_line([row]).count(b"\n") == 1


def test_of_a_value_of_another_class_its_repr_is_left() -> None:
    zoned = datetime(2024, 1, 1, tzinfo=UTC)
    (back,) = row_of_line(row_line([{"at": zoned, "set": {1}}]))
    assert (repr(back["at"]), repr(back["set"])) == (repr(zoned), "{1}")
