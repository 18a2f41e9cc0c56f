"""The `data` section of a recipe: the rows, and how they become examples."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, Tag, model_validator

from shardtune.recipe.values import NUMBER_OR_WORD
from shardtune.rows.source_config import Column, HeldOutConfig, SourceConfig, Sources, SourcesOrShare, listed
from shardtune.section import Section

Window = Annotated[
    Annotated[int, Field(ge=0), Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    NUMBER_OR_WORD,
]
"""A number of global batches, or `auto`."""


class DataConfig(Section):
    """The labelled rows, and how they are prepared."""

    train: Sources
    """The training rows: a file, a folder, a glob, `hf:owner/name`, or a list of these. Supported files are .jsonl,
    .json (an array of objects, or an object that contains one), .csv, .tsv, .parquet, .arrow, .txt (one row of `text`
    per line), .conll or .bio (one word per line: the first column is `tokens`, the last `tags`, those between are
    `column_2` and so on) and .tmx (one column per language), each also compressed as .gz or .zst. `"corpus.{en,fr}"` is
    a pair of line-aligned text files, corpus.en and corpus.fr. A folder stands for all supported files in it, at any
    depth, or for a data set written by `datasets.save_to_disk`; `hf:owner/name` is a data set on the hub. A list item
    is one of these, or a mapping such as `{path: chats/*.jsonl.gz, weight: 0.5}`. Relative paths start from the working
    directory."""
    dev: SourcesOrShare | None = None
    """Rows for the evaluations during training, which also select the best model: sources as for train, or a share of
    the training rows, as in `{fraction: 0.05, group: conversation_id}`."""
    test: SourcesOrShare | None = None
    """Rows for the single evaluation of the best model at the end; as for dev."""
    columns: dict[str, Column] = Field(default={})
    """Maps shardtune's column names to those in the data, as in `{text: review, label: stars}`. Columns that are not
    listed keep their names. Classification also reads one column of zeros and ones per label:
    `{label: [toxic, insult]}`."""
    guess_columns: bool = True
    """If a column is missing and exactly one other column has a common name for it (such as review for text), uses that
    one, and prints a note."""
    text_unit: Literal["line", "paragraph", "file"] = "line"
    """What one row of a .txt file is. Paragraphs are separated by blank lines; blank lines are not rows."""
    on_bad_row: Literal["error", "skip"] = "error"
    """What to do with lines that cannot be read and rows that the task cannot use: stop with an error, or skip them.
    Skipped rows are counted by reason. A file that is damaged as a whole is always an error."""
    special_tokens_in_text: Literal["refuse", "escape"] = "refuse"
    """What to do with special tokens, such as `<|im_end|>` or `</s>`, that are literally in a text. `refuse` names the
    rows in which they would be read as the end of a turn (chat) or of the text by which a BART or T5 classifies; other
    such rows are counted. `escape` reads them as plain text, in training and
    in predictions alike, so that no row can contain a control token."""
    deduplicate: Literal["none", "train", "all"] = "none"
    """`train` drops duplicates among the training rows (the first copy stays), and training rows whose model input also
    occurs in dev or test. `all` also drops duplicates within dev and test, and dev rows that occur in test. Duplicates
    are counted and reported in any case."""
    near_duplicates: Literal["auto", "off", "count", "drop"] = "auto"
    """Rows of dev and test whose model input is nearly, but not exactly, that of a training row: of their runs of three
    words (three characters in Chinese, Japanese and Thai), at least 80 % are in both. `count` counts and reports them,
    `drop` also drops those training rows, and `off` does not look for them. `auto` counts them if there are at most a
    million rows, and 100,000 of dev and test."""
    max_tokens: PositiveInt = 512
    """Maximum length in tokens, special tokens included. Longer texts are truncated; token_classification splits them
    into windows and language_modeling into pieces instead, each of which then counts as a row."""
    length_window: Window = "auto"
    """Rows are sorted by length within windows of this many global batches, to reduce padding; the batches are then
    shuffled. 0 makes the order fully random. `auto` is 0 for tasks whose loss is a mean over tokens: there, sorting
    makes each token of a batch of short rows count for more, and packed rows need no padding anyway. For
    classification and multiple_choice, where rows count alike and are padded, it is 50."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Trains on this part of the training rows, chosen at random from each source and the same for every train.seed. A
    smaller part is contained in a larger one. dev, test, label names and all else come from all rows, whose prepared
    data the parts share. `shardtune run RECIPE --fractions=0.1,0.3,1.0` trains on several parts, and says whether more
    rows would help."""
    streaming: bool = False
    """Trains on the rows of train as they are read and stores nothing on disk: for data that is read only once. Rows
    are shuffled in a buffer of shuffle_window rows and not sorted by length. What must be known in advance, such as
    label names, is taken from the first rows of each source. Needs train.max_steps, and separate files for dev and
    test."""
    shuffle_window: PositiveInt = 10_000
    """Size of the shuffle buffer of a stream, in rows, on all ranks together."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Packs several rows into one sequence of up to max_tokens, for causal language models and token classifiers, so
    that little padding is computed. Packed rows cannot attend to each other, and what is learned is the same. `auto`
    checks at the start of a run whether the model keeps packed rows apart (Llama, BERT and similar models do; OPT,
    Bloom and Mamba do not), and does not pack if it does not; with `on` that is an error."""
    cache_dir: str = "~/.cache/shardtune"
    """Where prepared (tokenized) data is cached between runs. Machines that share this folder divide the preparation
    among themselves."""
    prepare_processes: PositiveInt | None = None
    """Worker processes that prepare the data on each machine. None starts one per core. Fewer use less memory."""

    def sources(self, split: str) -> list[SourceConfig]:
        """The sources of train, dev or test; empty if there is no such split, or if it is a share of train."""
        return listed(getattr(self, split))

    def share(self, split: str) -> HeldOutConfig | None:
        """The share of the training rows that dev or test is, or None."""
        value = getattr(self, split)
        return value if isinstance(value, HeldOutConfig) else None

    @model_validator(mode="after")
    def _lists_have_items(self) -> "DataConfig":
        for split in ("train", "dev", "test"):
            if getattr(self, split) == ():
                raise ValueError(f"{split}: the list of sources is empty")
        return self

    @model_validator(mode="after")
    def _only_training_rows_are_weighted(self) -> "DataConfig":
        for split in ("dev", "test"):
            for source in self.sources(split):
                if source.weight != 1:
                    raise ValueError(
                        f"{split}: {source.path!r} has a weight, but only training rows can be weighted; remove it"
                    )
        return self

    @model_validator(mode="after")
    def _a_stream_is_read_once(self) -> "DataConfig":
        faults = []
        if self.share("dev") or self.share("test"):
            faults.append("dev and test cannot be shares of a stream; give separate files")
        if self.deduplicate != "none":
            faults.append("a stream cannot be searched for duplicates; remove deduplicate")
        if self.near_duplicates in ("count", "drop"):
            faults.append("a stream cannot be searched for near duplicates; remove near_duplicates")
        if any(source.weight != 1 for source in self.sources("train")):
            faults.append("the sources of a stream cannot be weighted; remove the weights")
        if self.fraction != 1:
            faults.append("a part of a stream cannot be chosen; remove fraction, and lower train.max_steps")
        if self.streaming and faults:
            raise ValueError(f"streaming: {'; '.join(faults)}")
        return self

    @model_validator(mode="after")
    def _shares_fit_together(self) -> "DataConfig":
        dev, test = self.share("dev"), self.share("test")
        if dev and dev.fold is not None:
            raise ValueError("dev.fold: folds are for test; remove the key")
        if dev and test:
            if (dev.group, dev.seed) != (test.group, test.seed):
                raise ValueError("dev and test are both shares of train; give them the same group and the same seed")
            if test.fold is None and dev.fraction + test.fraction >= 1:
                raise ValueError(
                    f"dev and test together take {dev.fraction + test.fraction:g} of train; lower the fractions"
                )
        return self
