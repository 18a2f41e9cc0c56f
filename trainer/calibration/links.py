"""How fast the ranks of a machine reach each other, the disk, the host's memory, and the tokens of texts."""

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from shardtune.planner.measured.calibration import Links
from shardtune.planner.measured.curves import Curve
from shardtune.trainer.calibration.timing import Clock

DISK_BYTES = 2**26
"""Of the file by which the disk's rate is measured."""
TEXTS, WORDS = 400, 120
"""Texts that are tokenized, and words of each."""
REPEATS = 5


def measure_links(clock: Clock) -> Links | None:
    """Collective: the collectives of the ranks' backend (gloo or NCCL); None of a single rank."""
    ranks = clock.ranks
    if ranks.world_size == 1:
        return None

    def reduce(whole: torch.Tensor, _: torch.Tensor) -> None:
        dist.all_reduce(whole, group=ranks.group)

    def gather(whole: torch.Tensor, part: torch.Tensor) -> None:
        dist.all_gather_into_tensor(whole, part, group=ranks.group)

    def curve(collective: Callable[[torch.Tensor, torch.Tensor], None]) -> Curve:
        points = []
        for num_bytes in clock.effort.messages:
            part = torch.ones(max(1, num_bytes // 4 // ranks.world_size), device=ranks.device)
            whole = part.repeat(ranks.world_size)
            seconds = clock.together(lambda whole=whole, part=part: collective(whole, part), REPEATS)  # type: ignore[misc]
            points.append((float(whole.nbytes), seconds))
        return Curve(tuple(points))

    return Links(curve(reduce), curve(gather), clock.together(ranks.barrier, REPEATS))


def disk_rate(folder: Path, num_bytes: int = DISK_BYTES) -> float | None:
    """10^9 bytes a second at which a file is written to the disk of this folder; None if it cannot be written to."""
    content = random.Random(0).randbytes(2**20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.perf_counter()
            for _ in range(max(1, num_bytes >> 20)):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
            return max(1, num_bytes >> 20) * len(content) / (time.perf_counter() - began) / 1e9
    except OSError:
        return None


def tokens_rate(num_texts: int = TEXTS) -> float:
    """Tokens a second that one core makes of texts: WordPiece with a vocabulary learned from them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    texts = _texts(num_texts)
    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts[: max(20, num_texts // 10)], trainer)
    began = time.perf_counter()
    num_tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
    return num_tokens / (time.perf_counter() - began)


def _texts(num_texts: int) -> list[str]:
    chosen = random.Random(0)
    syllables = [one + other for one in "bdfgklmnprst" for other in "aeiou"]
    words = ["".join(chosen.choices(syllables, k=chosen.randint(1, 4))) for _ in range(3000)]
    return [" ".join(chosen.choices(words, k=WORDS)) + "." for _ in range(num_texts)]
