"""Where texts and labels come from, and that what is wrong with them is said before anything is trained."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny
from pyarrow import Table, parquet

import opacus_edgeworth as ew
from opacus_edgeworth.finetune import load_data
from opacus_edgeworth.finetune.encoding import encode

ROWS = [("good film", "yes"), ("bad film", "no"), ("great plot", "yes")]
GLUE = {  # real headers, and made-up rows in their form
    "SST-2": (
        "sentence\tlabel",
        ['a "good film \t1', "bad plot \t0"],
        ("dev",),
        {"texts": ('a "good film ', "bad plot "), "pairs": None, "names": ("0", "1"), "labels": (1, 0)},
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel",
        ['0\tWhat "is it?\tIt is.\tentailment', "1\tWho?\tNobody.\tnot_entailment"],
        ("dev",),
        {"texts": ('What "is it?', "Who?"), "pairs": ("It is.", "Nobody."), "names": ("entailment", "not_entailment")},
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ["7\t1\t2\tWhy?\tWhy so?\t1", "8\t3\t4\tHow?\tWhen?\t0"],
        ("dev",),
        {"texts": ("Why?", "How?"), "pairs": ("Why so?", "When?"), "names": ("0", "1"), "labels": (1, 0)},
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse"
        "\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        [
            f"{n}\t1\t2e\tfiction\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tA {n}\tB {n}\tneutral\t{label}"
            for n, label in enumerate(("entailment", "neutral", "contradiction"))
        ],
        ("dev_matched", "dev_mismatched"),
        {
            "texts": ("A 0", "A 1", "A 2"), "pairs": ("B 0", "B 1", "B 2"),
            "names": ("contradiction", "entailment", "neutral"), "labels": (1, 2, 0),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", GLUE)
def test_glue_folders(task: str, tmp_path: Path):
    header, lines, held_out, wanted = GLUE[task]
    for name in ("train", *held_out):
        (tmp_path / f"{name}.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tno labels here\n")
    data = load_data(tmp_path)
    assert (data.train.texts, data.train.pairs, data.label_names) == (wanted["texts"], wanted["pairs"], wanted["names"])
    if "labels" in wanted:
        assert data.train.labels == wanted["labels"]
    assert set(data.held_out) == {"validation"} | ({"validation_mismatched"} if task == "MNLI" else set())
    assert any("also in the training data" in note for note in data.notes)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_format_gives_the_same_task(form: str, tmp_path: Path):
    path = tmp_path / f"texts.{form}"
    objects = [{"review": text, "sentiment": label} for text, label in ROWS]
    if form == "csv":
        path.write_text("review,sentiment\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS))
    elif form == "tsv":
        path.write_text("review\tsentiment\r\n" + "".join(f"{text}\t{label}\r\n" for text, label in ROWS))
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, objects)) + "\n\n")
    elif form == "json":
        path.write_text(json.dumps(objects))
    else:
        parquet.write_table(Table.from_pylist(objects), path)
    data = load_data(path)
    assert data.train.texts == tuple(text for text, _ in ROWS)
    assert (data.train.labels, data.label_names) == ((1, 0, 1), ("no", "yes"))


def test_csv_may_hold_quotes_and_line_ends(tmp_path: Path):
    (tmp_path / "a.csv").write_text('text,label\n"a ""good"" film,\nreally",1\n"NA",0\n')
    assert load_data(tmp_path / "a.csv").train.texts == ('a "good" film,\nreally', "NA")


def test_datasets_objects_know_the_names_of_their_classes(tmp_path: Path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    train = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [0, 1, 1]}, features=features)
    hidden = datasets.Dataset.from_dict({"text": ["u"], "label": [-1]}, features=features)
    both = datasets.DatasetDict({"train": train, "validation": train, "test": hidden})
    data = load_data(both)
    assert (data.label_names, data.train.labels, list(data.held_out)) == (("bad", "good"), (0, 1, 1), ["validation"])
    assert "the split 'test' has no labels and is left out" in data.notes
    both.save_to_disk(str(tmp_path / "kept"))
    assert load_data(tmp_path / "kept").train == data.train
    assert load_data(train).train == data.train


def test_names_are_looked_up_with_their_configuration(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load(path: str, configuration: str | None) -> Any:
        asked.append((path, configuration))
        if path == "unknown":
            raise FileNotFoundError("not on the hub")
        return datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_data("nyu-mll/glue:sst2").train.labels == (0, 1)
    load_data("imdb")
    assert asked == [("nyu-mll/glue", "sst2"), ("imdb", None)]
    with pytest.raises(ew.InvalidParameterError, match=r"data='unknown' is no file or folder here.*not on the hub"):
        load_data("unknown")


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        [list(row) for row in ROWS],
        [{"text": text, "label": label} for text, label in ROWS],
        {"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]},
        {"train": ROWS, "dev": ROWS[:2]},
    ],
    ids=["tuples", "lists", "objects", "columns", "splits"],
)
def test_data_in_memory(data: Any):
    assert load_data(data).train.labels == (1, 0, 1)


def test_columns_may_be_named():
    rows = [{"a": "x", "b": "y", "c": 0, "d": "z"}, {"a": "u", "b": "v", "c": 1, "d": "w"}]
    data = load_data(rows, text_column="a", text_pair_column="d", label_column="c", label_names=("no", "yes"))
    assert (data.train.texts, data.train.pairs, data.label_names) == (("x", "u"), ("z", "w"), ("no", "yes"))


def test_part_of_the_data_may_be_held_out():
    rows = tiny.texts(100)
    data = load_data(rows, validation_fraction=0.2, split_seed=3)
    assert (len(data.train), len(data.held_out["validation"])) == (80, 20)
    together = zip(
        data.train.texts + data.held_out["validation"].texts,
        data.train.labels + data.held_out["validation"].labels,
        strict=True,
    )
    assert sorted(together) == sorted(rows)
    assert load_data(rows, validation_fraction=0.2, split_seed=3).train == data.train


def test_repeated_and_shared_texts_are_noted():
    notes = " ".join(load_data({"train": ROWS + ROWS[:1], "test": ROWS[:1]}).notes)
    assert "1 of 4 training examples repeat" in notes
    assert "1 texts of 'test' are also in the training data" in notes
    assert "'test' has no example of no" in notes


BAD = {
    "no rows": ([], "'train' is empty"),
    "an empty split": ({"train": ROWS, "test": []}, "'test' is empty"),
    "no training split": ({"test": ROWS}, 'no "train" split'),
    "no label": ([("a", "x"), ("b", None)], r"row 2: the label .*missing"),
    "label nan": ([("a", 1.0), ("b", float("nan"))], r"row 2: the label .*missing"),
    "label withheld": ([("a", 1), ("b", -1)], r"row 2: the label .*missing"),
    "text nan": ([("a", 1), (float("nan"), 0)], r"row 2: text=nan is not text"),
    "text none": ([(None, 1), ("b", 0)], r"row 1: text=None is not text"),
    "one class": ([("a", 1), ("b", 1)], "at least two"),
    "a class of its own": ({"train": ROWS, "test": [("a", "maybe")]}, "'test', row 1: the label 'maybe' is not one of"),
    "no text column": ([{"a": "x", "b": "y", "label": 1}], "no text column found.*text_column="),
    "no label column": ([{"a": "x", "b": "y"}], "no label column found.*label_column="),
    "ragged tuples": ([("a", 1), ("b",)], "row 2: .* is not"),
    "not rows": (["a", "b"], "row 1: 'a' is not"),
    "a number": (7, "data=7 is no data"),
    "another split's columns": (
        {"train": ROWS, "test": [{"body": "a", "label": "yes"}]},
        "'test' has no column 'text'",
    ),
    "a missing file": ("nowhere.csv", "does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused(case: str):
    data, message = BAD[case]
    with pytest.raises(ew.InvalidParameterError, match=message):
        load_data(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nx,1,2\n", "row 2: 3 fields where the header has 2"),
        ("a.csv", "text,text\nx,1\n", "same name"),
        ("a.csv", "", "is empty"),
        ("a.csv", 'text,label\n"x,1\n', "is not a CSV file"),
        ("a.tsv", "text\tlabel\nx\n", "row 2: 1 fields"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{oops\n', "line 2"),
        ("a.jsonl", "[1, 2]", "row 1: 1 is not an object"),
        ("a.parquet", "no parquet", "is not a Parquet file"),
        ("a.doc", "x", "the formats are"),
    ],
)
def test_malformed_files_are_refused(name: str, content: str, message: str, tmp_path: Path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ew.InvalidParameterError, match=message):
        load_data(tmp_path / name)


def test_folder_without_training_file_is_refused(tmp_path: Path):
    with pytest.raises(ew.InvalidParameterError, match="has no training file"):
        load_data(tmp_path)


def test_unknown_column_is_named():
    with pytest.raises(ew.InvalidParameterError, match="text column 'body' is not in the data"):
        load_data(ROWS, text_column="body")


def test_batches_are_padded_to_their_longest():
    rows = encode(tiny.tokenizer(), load_data(tiny.pairs(20)).train, 32)
    chosen = rows.lengths.argsort()[:3]
    batch = rows.batch(chosen, "cpu")  # pyright: ignore[reportArgumentType]
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (3, int(rows.lengths[chosen].max()))
    assert batch["attention_mask"].sum(1).tolist() == rows.lengths[chosen].tolist()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert batch["token_type_ids"].max() == 1
