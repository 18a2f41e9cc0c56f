"""A process of the check: reads jobs from its standard input, one line of JSON each, and answers in the same way.

`python -m benchmarks.gpu.worker cpu|cuda`
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.gpu import jobs
from benchmarks.gpu.training import Place
from benchmarks.gpu.workers import last_lines
from shardtune.trainer.setup.garbage import lasting_objects

JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "facts": jobs.facts,
    "write_tasks": jobs.write_tasks,
    "write_task_rows": jobs.write_task_rows,
    "write_shape": jobs.write_shape,
    "train": jobs.train,
    "train_by_trainer": jobs.train_by_trainer,
    "predict_memory": jobs.predict_memory,
    "compare_checkpoints": jobs.compare_checkpoints,
}


IMPORTED_FIRST = (
    "deepspeed.runtime.zero.stage3",
    "peft",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
    "transformers.models.marian.modeling_marian",
)
"""What the first trainings would import otherwise, while their time passes."""


def main(device: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log
    with lasting_objects():
        for module in IMPORTED_FIRST:
            import_module(module)
    place = Place(device)
    for line in sys.stdin:
        job, answer = json.loads(line), dict[str, Any]()
        try:
            answer = {"result": JOBS[job["job"]](place, **job["arguments"])}
        except Exception as error:
            print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
            answer = {"error": last_lines("".join(traceback.format_exception(error)))}
            del error
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
