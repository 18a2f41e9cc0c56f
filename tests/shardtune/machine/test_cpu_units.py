"""bf16 units are found by whole names, on x86 and on ARM."""

from pathlib import Path

import pytest

from shardtune.machine.cpu_units import has_bf16_units


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags : fpu avx512f avx512_bf16", True),
        ("flags : fpu amx_bf16 amx_tile", True),
        ("Features : fp asimd svebf16 bf16", True),
        ("flags : fpu avx2 fma", False),
        ("model name : no bf16x unit", False),
    ],
)
def test_only_units_for_bf16_are_such(line: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\n{line}\n")
    assert has_bf16_units(tmp_path) is expected
