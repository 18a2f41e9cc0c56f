"""Why a job ended before its batch script could record a start: a preamble that failed, a Python that is not there."""

from pathlib import Path

TAIL_LINES = 3


def early_end(job: str, output: Path, last_word: str | None, *, is_requeued: bool) -> str | None:
    """How a job that has left the queue ended before training began; None if it did not begin, or Slurm ended it.

    `last_word` is what Slurm reports about it; None if Slurm no longer knows it. Slurm creates the output when a job
    begins; that of a job that was requeued may be an earlier start's.
    """
    is_failed = (last_word or "").startswith(("FAILED", "OUT_OF_MEMORY", "BOOT_FAIL"))
    if not output.is_file() or not (is_failed or (last_word is None and not is_requeued)):
        return None
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    tail = [line.removeprefix("shardtune: ") for line in lines if line.strip()][-TAIL_LINES:]
    text = f"job {job} ended before training began ({last_word or 'Slurm no longer knows how'})"
    return f"{text}: {'; '.join(tail)}" if tail else f"{text}; it printed nothing"
