"""Packed examples see nothing of each other: the same loss and the same gradient as apart, on the models that can."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import transformers
from torch import Tensor

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.load import learning_hash, parse_recipe
from shardtune.trainer.data.batches.bins import Packing, merge
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.setup.packing import choose_packing
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import IGNORED, Example
from shardtune.trainer.tasks.token_classification.token_classification import TokenClassification
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
GPT2: dict[str, Any] = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT2 |= {"initializer_range": 0.2, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
WINDOWED = SMALL | {"head_dim": 8, "sliding_window": 4}
APART: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "sdpa", SMALL),
    ("llama", "eager", SMALL),
    ("gpt2", "sdpa", GPT2),
    ("gpt2", "eager", GPT2),
    ("qwen2", "sdpa", SMALL),
    ("gemma2", "eager", WINDOWED),
    ("gemma3_text", "sdpa", WINDOWED),
    ("mixtral", "sdpa", SMALL | {"num_local_experts": 4}),
]
"""Models that keep packed examples apart; the windows of some are shorter than the examples."""
OPT = {key: SMALL[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
MIXED: list[tuple[str, dict[str, Any], str]] = [
    ("opt", OPT | {"ffn_dim": 64, "word_embed_proj_dim": 32}, "does not keep packed rows apart"),
    ("bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "takes no position_ids"),
    ("mamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "takes no position_ids"),
    ("bert", SMALL | {"is_decoder": True}, "does not keep packed rows apart"),
    ("lfm2", SMALL | {"layer_types": ["conv", "full_attention"]}, "does not keep packed rows apart"),
]
"""Models that do not, and what is said of them."""
LENGTHS = (9, 3, 14, 1, 6)


def model_of(name: str, attention: str | None, settings: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention, **more)
    keep_target_loss(model)
    return model


def examples() -> list[Example]:
    """Of lengths of their own, with some tokens that are no targets; two of them with weights."""
    drawn = torch.Generator().manual_seed(0)
    result = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(1, 64, (length + 1,), generator=drawn).tolist()
        weights = [0.0, 1.0, 2.0 if number in (1, 2) else 1.0, *[1.0] * length][: length + 1]
        result.append(causal.example_of(ids, weights))
    return result


def packed() -> Batch:
    first, *others = examples()
    return causal.collate([merge([first, *others[:2]]), merge(others[2:])], 0)


def loss_and_gradient(model: Any, batch: Batch) -> tuple[float, Tensor]:
    model.zero_grad()
    loss = causal.loss_sum(model(**batch.inputs))
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("name", "attention", "settings"), APART)
def test_packing_changes_neither_loss_nor_gradient(name: str, attention: str, settings: dict[str, Any]) -> None:
    model = model_of(name, attention, settings)
    assert model.config._attn_implementation == attention
    padded = causal.collate(examples(), 0)
    assert packed().num_targets == padded.num_targets and "attention_mask" not in packed().inputs
    loss, gradient = loss_and_gradient(model, packed())
    expected_loss, expected_gradient = loss_and_gradient(model, padded)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4 * float(expected_gradient.abs().max()))


@pytest.mark.parametrize(("name", "attention", "settings"), APART)
def test_no_example_sees_its_neighbour(name: str, attention: str, settings: dict[str, Any]) -> None:
    model = model_of(name, attention, settings).eval()

    def logits(changed: bool, **more: Tensor) -> Tensor:
        first, *others = examples()
        if changed:
            first["input_ids"] = [(token + 1) % 64 for token in first["input_ids"]]
        first["labels"] = [IGNORED] * len(first["labels"])
        batch = causal.collate([merge([first, *others])], 0)
        with torch.no_grad():
            return batch.of_targets(model(**batch.plain_inputs | more).logits)

    torch.testing.assert_close(logits(False), logits(True), rtol=0, atol=1e-6)
    one_text = {"position_ids": torch.arange(sum(LENGTHS) + len(LENGTHS))[None]}
    assert (logits(False, **one_text) - logits(True, **one_text)).abs().max() > 1e-3, "the test would see a leak"


def test_padding_is_a_segment_of_its_own() -> None:
    batch = packed()
    inputs = batch.inputs
    lengths = [length + 1 for length in LENGTHS]
    first, second = inputs["position_ids"].tolist()
    assert first == [place for length in lengths[:3] for place in range(length)]
    assert second == [
        place for length in (*lengths[3:], sum(lengths[:3]) - sum(lengths[3:])) for place in range(length)
    ]
    assert not batch.targets[1, sum(lengths[3:]) :].any()


class Plain:
    """A model alone, in the place of an engine."""

    def __init__(self, model: Any) -> None:
        self.forward = lambda batch: model(**batch.inputs)
        self.model = model

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self.model.eval()
        with torch.no_grad():
            yield
        self.model.train()


class Task:
    packable = True
    wants_target_loss = True
    has_row_per_example = True

    def collate(self, examples: Sequence[Example]) -> Batch:
        return causal.collate(examples, 0)


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def report(self, event: str, /, **values: Any) -> None:
        self.events.append({"event": event, **values})


def recipe_of(packing: str, precision: str = "fp32", kind: str = "language_modeling") -> Any:
    text = f"task: {{kind: {kind}}}\nmodel: {{path: ./m}}\ndata: {{train: t.jsonl, max_tokens: 48, packing: {packing}}}"
    return parse_recipe(f"{text}\nengine: {{precision: {precision}}}", [])


def choices(ranks: Ranks) -> list[Any]:
    """For each model and packing: what was chosen, and what was said."""
    result = []
    asked = [(name, attention, settings, "fp32") for name, attention, settings in APART]
    asked += [("llama", "sdpa", SMALL, "bf16"), ("mixtral", "eager", SMALL | {"num_local_experts": 4}, "bf16")]
    asked += [(name, None, settings, precision) for name, settings, _ in MIXED for precision in ("fp32", "bf16")]
    for name, attention, settings, precision in asked:
        engine: Any = Plain(model_of(name, attention, settings, dtype=torch.bfloat16 if precision == "bf16" else None))
        for packing in ("auto", "on"):
            heard: Any = Heard()
            recipe, task = recipe_of(packing, precision), Task()
            try:
                chosen: Any = choose_packing(recipe, task, engine, engine.model, ranks=ranks, reporter=heard)  # type: ignore[arg-type]
            except DataError as error:
                chosen = str(error)
            result.append((name, precision, packing, chosen, [event["text"] for event in heard.events]))
    return result


def test_the_model_is_asked_whether_it_keeps_packed_rows_apart() -> None:
    (found,) = run_ranks(choices, world_size=1)
    faults = {name: fault for name, _, fault in MIXED}
    assert len(found) == 2 * (len(APART) + 2 + 2 * len(MIXED))
    for name, precision, packing, chosen, said in found:
        if name not in faults:
            assert (chosen, said) == (Packing(48, is_flat=False), []), (name, precision, packing)
        elif packing == "auto":
            assert chosen is None and len(said) == 1 and faults[name] in said[0], (name, precision, said)
            assert said[0].startswith("rows are not packed: ")
        else:
            assert faults[name] in chosen and chosen.startswith("data.packing: ") and "off" in chosen


def choice_for_a_head_of_zeros(ranks: Ranks) -> str:
    model = model_of("llama", "sdpa", SMALL)
    model.lm_head.weight.data.zero_()
    engine, heard = cast(Any, Plain(model)), cast(Any, Heard())
    recipe, task = recipe_of("auto", "fp32"), cast(Any, Task())
    assert choose_packing(recipe, task, engine, model, ranks=ranks, reporter=heard) is None
    return str(heard.events[0]["text"])


def test_a_model_that_answers_every_text_alike_is_said_to_do_so() -> None:
    (notice,) = run_ranks(choice_for_a_head_of_zeros, world_size=1)
    assert notice.endswith(
        "answers every text with the same logits, which do not show whether it keeps packed rows apart"
    )


def test_flash_attention_gets_one_row() -> None:
    merged = merge(examples())
    batch = causal.collate([merged], 0)
    assert batch.inputs["input_ids"].shape == (1, sum(LENGTHS) + len(LENGTHS))
    model = model_of("llama", "sdpa", SMALL)
    loss, _ = loss_and_gradient(model, batch)
    assert loss == pytest.approx(loss_and_gradient(model, causal.collate(examples(), 0))[0], rel=1e-5)


def test_a_task_that_cannot_be_packed_is_named_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"data\.packing: the rows of classification cannot be packed; set it to"):
        recipe_of("on", kind="classification")


def test_packing_belongs_to_no_run_directory(tmp_path: Path) -> None:
    assert learning_hash(tiny_recipe(tmp_path)) == learning_hash(tiny_recipe(tmp_path, "data.packing=off"))


DISTILBERT = {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
ENCODERS: list[tuple[str, dict[str, Any], int]] = [
    ("bert", SMALL, 0),
    ("electra", SMALL | {"embedding_size": 32}, 0),
    ("roberta", SMALL | {"pad_token_id": 1}, 2),
    ("xlm-roberta", SMALL | {"pad_token_id": 1}, 2),
    ("distilbert", DISTILBERT | {"dropout": 0.0, "attention_dropout": 0.0}, 0),
]
"""Encoders that keep examples apart, and the place that they count from."""
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("fnet", SMALL, "does not keep packed rows apart"),
    (
        "modernbert",
        SMALL | {"local_attention": 16},
        "ModernBertForTokenClassification attend within a window",
    ),
]


def tagger(name: str, settings: dict[str, Any]) -> tuple[Any, TokenClassification]:
    """A model for two types of entities, and the task."""
    torch.manual_seed(0)
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 5}
    config = transformers.AutoConfig.for_model(name, **settings | calm)
    facts = {"types": ["LOC", "PER"], "scheme": "bio", "keep_inner": False}
    options = TokenClassification.Options(kind="token_classification")
    task = TokenClassification(options, facts, SimpleNamespace(pad_token_id=settings.get("pad_token_id")), config)  # type: ignore[arg-type]
    return transformers.AutoModelForTokenClassification.from_config(config), task


def tagged() -> list[Example]:
    """Of lengths of their own. The first ends with an entity, which the second would go on with."""
    drawn = torch.Generator().manual_seed(0)
    examples = []
    for length in LENGTHS:
        ids = torch.randint(3, 64, (length + 2,), generator=drawn).tolist()
        labels = torch.randint(0, 5, (length + 2,), generator=drawn).tolist()
        examples.append({"input_ids": ids, "labels": labels})
    examples[0]["labels"][-1], examples[1]["labels"][0] = 1, 2  # B-LOC, I-LOC
    return examples


@pytest.mark.parametrize(("name", "settings", "first_position"), ENCODERS)
def test_an_encoder_packs_its_examples_to_the_same_loss_gradient_and_scores(
    name: str, settings: dict[str, Any], first_position: int
) -> None:
    model, task = tagger(name, settings)

    def body(ranks: Ranks) -> Any:
        heard: Any = Heard()
        recipe = recipe_of("on", kind="token_classification")
        return choose_packing(recipe, task, Plain(model), model, ranks=ranks, reporter=heard)  # type: ignore[arg-type]

    assert run_ranks(body, world_size=1) == [Packing(48, is_flat=False, first_position=first_position)]
    first, *others = tagged()
    found = []
    for rows in ([merge([first, *others[:2]], first_position), merge(others[2:], first_position)], tagged()):
        batch = task.collate(rows)
        model.zero_grad()
        output = model(**batch.inputs)
        loss = task.loss_sum(output, batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        output.logits = 10.0 * torch.nn.functional.one_hot(batch.labels.clamp(min=0), 5)  # as if it had learned all
        found.append((float(loss.detach()), gradient, task.score(output, batch)))
    (loss, gradient, scores), (expected_loss, expected_gradient, expected_scores) = found
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4 * float(expected_gradient.abs().max()))
    assert {name: score.tolist() for name, score in scores.items()} == {
        name: score.tolist() for name, score in expected_scores.items()
    }


@pytest.mark.parametrize(("name", "settings", "fault"), REFUSED)
def test_an_encoder_that_does_not_keep_examples_apart_is_not_packed(
    name: str, settings: dict[str, Any], fault: str
) -> None:
    model, task = tagger(name, settings)

    def body(ranks: Ranks) -> list[str]:
        heard: Any = Heard()
        recipe = recipe_of("auto", kind="token_classification")
        assert choose_packing(recipe, task, Plain(model), model, ranks=ranks, reporter=heard) is None  # type: ignore[arg-type]
        return [event["text"] for event in heard.events]

    ((said,),) = run_ranks(body, world_size=1)
    assert fault in said
