"""Outputs of frozen layers kept: the same training result, to rounding in fp32."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from opacus_edgeworth.finetune import features as features_module
from opacus_edgeworth.finetune import finetune

DATA = {"train": tiny.texts(120), "validation": tiny.texts(40, seed=1)}
FP32 = {"rtol": 1e-4, "atol": 1e-5}  # each state is rounded to 6e-8; steps of Adam and layers above make more of it


def run(family: str, data: Any = None, **settings: Any):
    options: dict[str, Any] = {
        "target_epsilon": 8.0, "epochs": 2, "batch_size": 40, "seed": 0, "progress": False,
        "method": "lora", "pooling": "model", "head_learning_rate": None,
    }  # fmt: skip
    words = tiny.tokenizer(types=family != "distilbert")
    return finetune(tiny.model(family), DATA if data is None else data, tokenizer=words, **options | settings)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("pooling", ["model", "mean"])
@pytest.mark.parametrize(
    "settings",
    [{"method": "head"}, {"method": "lora", "top_layers": 1}, {"method": "full", "top_layers": 2}],
    ids=["head", "lora", "full"],
)
def test_cache_changes_nothing(family: str, pooling: str, settings: dict[str, Any]):
    settings = settings | {"pooling": pooling}
    kept, again = run(family, **settings), run(family, feature_cache="off", **settings)
    assert any("computed once and kept" in note for note in kept.notes)
    assert not any("computed once and kept" in note for note in again.notes)
    assert kept.epsilon == again.epsilon
    assert kept.history == again.history
    theirs = dict(again.classifier.classifier.named_parameters())
    for name, value in kept.classifier.classifier.named_parameters():
        torch.testing.assert_close(value, theirs[name], **FP32, msg=name)
    texts = ["good film", "a bad movie"]
    torch.testing.assert_close(kept.classifier.probabilities(texts), again.classifier.probabilities(texts), **FP32)
    assert kept.metrics["validation"]["loss"] == pytest.approx(again.metrics["validation"]["loss"], rel=1e-4)


def test_pairs_are_kept_with_their_segments():
    data = tiny.pairs(100)
    kept = run("bert", data, method="lora", top_layers=1)
    again = run("bert", data, method="lora", top_layers=1, feature_cache="off")
    torch.testing.assert_close(
        kept.classifier.probabilities(["good film"], ["bad"]), again.classifier.probabilities(["good film"], ["bad"]),
        **FP32,
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [{"method": "lora"}, {"method": "head", "dropout": None}, {"method": "head", "feature_cache_gib": 1e-9}],
    ids=["nothing frozen", "dropout", "no room"],
)
def test_cache_is_left_out_where_it_would_not_serve(settings: dict[str, Any]):
    assert not any("computed once and kept" in note for note in run("bert", **settings).notes)


def test_files_are_used_again_and_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings: dict[str, Any] = {"method": "head", "pooling": "mean", "cache_dir": tmp_path}
    first = run("bert", **settings)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 2  # one for each split
    computed = []
    original = features_module.compute_rows
    monkeypatch.setattr(features_module, "compute_rows", lambda *a: computed.append(a[3]) or original(*a))
    second = run("bert", **settings)
    assert computed == []
    assert [record["loss"] for record in first.log] == [record["loss"] for record in second.log]
    run("bert", DATA | {"validation": tiny.texts(40, seed=2)}, **settings)
    run("bert", **settings | {"pooling_layers": 2})
    assert computed == ["validation", "train", "validation"]
