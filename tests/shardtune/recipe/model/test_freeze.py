"""What a pattern of model.freeze may look like, and what it matches."""

from pathlib import Path

import pytest

from shardtune.errors import ConfigError
from shardtune.recipe.load import learning_hash, load_recipe, parse_recipe
from shardtune.recipe.model.freeze import LayerRange, layer_range, matches

MINIMAL = "{task: {kind: classification}, model: {path: x}, data: {train: x}}"


def test_layers_are_a_range_or_one_of_them() -> None:
    assert [layer_range(pattern) for pattern in ("layers:0-5", "layers:3", "layers", "embeddings")] == [
        LayerRange(0, 5),
        LayerRange(3, 3),
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("pattern", "name", "is_matched"),
    [
        ("encoder.layer.[0-5].", "bert.encoder.layer.4.output.dense.bias", True),
        ("encoder.layer.[0-5].", "bert.encoder.layer.14.output.dense.bias", False),
        ("encoder.layer.*", "bert.encoder.layer.14.output.dense.bias", True),
        ("layer.*.dense", "bert.encoder.layer.14.output.dense.bias", False),
        ("dense.bias", "bert.encoder.layer.14.output.dense.bias", True),
        ("dens", "bert.encoder.layer.14.output.dense.bias", False),
    ],
)
def test_a_pattern_matches_whole_parts_of_a_name(pattern: str, name: str, is_matched: bool) -> None:
    assert matches(pattern, name) is is_matched


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("model.freeze=['layers:a']", "freeze: got 'layers:a'; write layers:0-5, or layers:3 for a single one"),
        ("model.freeze=['layers:5-2']", "freeze: got 'layers:5-2', whose first layer comes after its last"),
        ("model.freeze=['a..b']", "freeze: got 'a..b'; write names as the model has them"),
        ("model.freeze=[a, a]", "freeze: 'a' is listed twice; remove one"),
        (
            "model={path: x, freeze: [a], lora: {}}",
            "freeze: adapters (model.lora) freeze all pretrained weights already",
        ),
        ("model={path: x, freeze: [a], from_scratch: true}", "freeze: needs pretrained weights"),
        ("optim.layer_decay=1.5", "must be at most 1, got 1.5"),
        ("regularize.l2_sp=-1", "must be at least 0, got -1"),
        ("regularize.ewc={weight: 1}", "regularize.ewc.data: missing; rows of the earlier skill"),
    ],
)
def test_what_cannot_be_meant_is_refused(override: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_recipe(MINIMAL, [override])
    assert fault in str(raised.value)


@pytest.mark.parametrize("key", ["optim.layer_decay=0.9", "regularize.l2_sp=1", "regularize.ewc={data: x}"])
def test_without_pretrained_weights_there_is_nothing_to_stay_near(key: str) -> None:
    with pytest.raises(ConfigError, match="from_scratch"):
        parse_recipe(MINIMAL, ["model.from_scratch=true", key])


@pytest.mark.parametrize("key", ["regularize.l2_sp=1", "regularize.ewc={data: x}"])
def test_adapters_are_not_held(key: str) -> None:
    with pytest.raises(ConfigError, match=r"adapters \(model.lora\) leave the pretrained weights as they are"):
        parse_recipe(MINIMAL, ["model.lora={}", key])


@pytest.mark.parametrize(
    "override", ["model.freeze=[a]", "optim.layer_decay=0.9", "regularize.l2_sp=1", "regularize.ewc={data: x}"]
)
def test_each_decides_what_is_learned_and_its_absence_changes_no_name(override: str) -> None:
    plain = learning_hash(parse_recipe(MINIMAL))
    assert plain == "1f7b8ae9", "as before there were these keys"
    assert learning_hash(parse_recipe(MINIMAL, [override])) != plain


def test_earlier_rows_are_a_path_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    text = "task: {kind: classification}\nmodel: {path: ./model}\ndata: {train: rows.jsonl}\n"
    (tmp_path / "a.yaml").write_text(text + "regularize: {ewc: {data: rows.jsonl}}\n")
    ewc = load_recipe(tmp_path / "a.yaml").regularize.ewc
    assert ewc is not None and ewc.data == str(tmp_path / "rows.jsonl")
    (tmp_path / "a.yaml").write_text(text + "regularize: {ewc: {data: [rows.jsonl, row.jsonl]}}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:4: regularize\.ewc\.data\[1\]: no such file: 'row\.jsonl'"):
        load_recipe(tmp_path / "a.yaml")
