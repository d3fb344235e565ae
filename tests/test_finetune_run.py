"""Whole runs on tiny models: what is trained, what is promised, what is written, what is refused beforehand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from versions import clips_bf16

import opacus_edgeworth as ew
from opacus_edgeworth.finetune import finetune, load_classifier

TEXTS = {"train": tiny.texts(120), "validation": tiny.texts(40, seed=1)}
QUICK: dict[str, Any] = {
    "target_epsilon": 8.0, "epochs": 1, "batch_size": 40, "seed": 0, "progress": False,
    "method": "lora", "pooling": "model", "head_learning_rate": None,
}  # fmt: skip


def run(model: Any = None, data: Any = None, **settings: Any):
    options = QUICK | {"tokenizer": tiny.tokenizer()} | settings
    return finetune(tiny.model() if model is None else model, TEXTS if data is None else data, **options)


def changed(before: Any, after: Any) -> set[str]:
    old = dict(before.named_parameters())
    return {name for name, value in after.named_parameters() if name in old and not torch.equal(value, old[name])}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # between peft and transformers
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("method", ["full", "lora", "bitfit", "head"])
def test_every_method_on_every_family(family: str, method: str, tmp_path: Path):
    source = tiny.saved_model(tmp_path / "model", family)
    result = run(source, method=method, tokenizer=None, output=tmp_path / "out", head_init="keep")
    assert result.steps == 3
    assert result.history == ((result.noise_multiplier, 1.0 / 3.0, 3),)
    assert 7.999 < result.epsilon.lower <= result.epsilon.upper <= 8.0 * (1.0 + 1e-9)
    trained = result.statement["trained"]["parameters"]
    assert all(any(word in name for word in ("classifier", *WORDS_OF[method])) for name in trained)
    assert not any("embeddings" in name for name in trained)
    loader = AutoPeftModelForSequenceClassification if method == "lora" else AutoModelForSequenceClassification
    again = loader.from_pretrained(str(tmp_path / "out" / ("adapter" if method == "lora" else "model"))).eval()
    assert method == "lora" or again.config.id2label == {0: "0", 1: "1"}  # an adapter has no configuration
    words = AutoTokenizer.from_pretrained(str(tmp_path / "out" / ("adapter" if method == "lora" else "model")))
    batch = words(["good film", "a bad movie"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = again(**batch).logits.softmax(dim=1)
    ours = result.classifier.probabilities(["good film", "a bad movie"])
    torch.testing.assert_close(ours, logits)
    torch.testing.assert_close(load_classifier(tmp_path / "out").probabilities(["good film", "a bad movie"]), logits)


WORDS_OF = {"full": (".layer.", "pooler"), "lora": ("lora_",), "bitfit": ("bias",), "head": ()}


@pytest.mark.parametrize("method", ["lora", "head", "full"])
def test_mean_pooling_is_saved_and_loaded(method: str, tmp_path: Path):
    source = tiny.saved_model(tmp_path / "model")
    result = run(source, tokenizer=None, method=method, pooling="mean", top_layers=1, output=tmp_path / "out")
    texts = ["good film", "a bad movie"]
    torch.testing.assert_close(
        load_classifier(tmp_path / "out").probabilities(texts), result.classifier.probabilities(texts)
    )
    assert (tmp_path / "out" / "head.safetensors").exists()
    assert (tmp_path / "out" / "model").exists() == (method == "full")
    assert load_classifier(tmp_path / "out")(texts) == result.classifier(texts)


def test_loaded_model_is_copied_and_saved_whole(tmp_path: Path):
    model = tiny.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = run(model, output=tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "out" / "model"))
    assert not hasattr(again, "peft_config")
    texts = ["good film", "a bad movie"]
    torch.testing.assert_close(
        load_classifier(tmp_path / "out").probabilities(texts), result.classifier.probabilities(texts)
    )


def test_pairs_and_three_classes():
    rows = [(a, b, label if "great" not in a else 2) for a, b, label in tiny.pairs(120)]
    result = run(tiny.model(classes=3), {"train": rows, "validation": rows[:30]}, pooling="mean", pooling_layers=2)
    assert result.classifier.label_names == ("0", "1", "2")
    assert result.classifier.probabilities(["good"], ["bad"]).shape == (1, 3)
    with pytest.raises(ew.InvalidParameterError, match="as many pairs"):
        result.classifier(["good", "bad"], ["bad"])


def test_something_is_learnt():
    data = {"train": tiny.texts(600), "validation": tiny.texts(100, seed=1)}
    result = run(
        tiny.model("distilbert"), data, method="full", pooling="mean", pooling_layers=2, epochs=10, batch_size=100,
        learning_rate=5e-3, max_grad_norm=1.0,
    )  # fmt: skip
    assert result.metrics["validation"]["accuracy"] > 0.9


def test_only_the_top_layers_change():
    model = tiny.model()
    result = run(model, method="full", top_layers=1)
    after = result.classifier.classifier.model
    names = changed(model, after)
    assert names
    assert all(".layer.2." in name or "pooler" in name or "classifier" in name for name in names)


def test_statement_and_log(tmp_path: Path):
    result = run(data=[*tiny.texts(119), tiny.texts(1)[0]], output=tmp_path / "out")
    statement = json.loads((tmp_path / "out" / "privacy.json").read_text())
    assert statement["guarantee"]["epsilon"] == result.epsilon.upper
    assert statement["guarantee"]["delta"] == result.delta == 1e-3
    assert statement["mechanism"]["history"] == [list(phase) for phase in result.history]
    assert any("DEMONSTRATION ONLY" in entry for entry in statement["assumptions"])
    text = (tmp_path / "out" / "PRIVACY.md").read_text()
    for words in ("Adjacency", "Poisson", "Clipping", "Not covered", "Versions", "opacus 1."):
        assert words in text
    assert "repeat the text" not in text  # a statement is published; what was noticed in the data is not
    assert any("repeat the text" in note for note in result.notes)
    assert float(text.split("at least ")[1].split(")")[0]) <= result.epsilon.lower
    shown = float(text.split("ε = ")[1].split(" ")[0])
    assert result.epsilon.upper <= shown <= result.epsilon.upper * (1.0 + 1e-5)
    log = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3]
    assert log[-1]["epsilon_upper"] == result.epsilon.upper
    assert all(record["epsilon_lower"] <= record["epsilon_upper"] for record in log)
    assert not (tmp_path / "out" / "checkpoint.pt").exists()
    assert "DEMONSTRATION" not in json.dumps(run(seed=None).statement)


def test_budget_ends_the_run():
    result = run(target_epsilon=4.0, noise_multiplier=2.0, epochs=50)
    assert 0 < result.steps < 150
    assert result.epsilon.upper <= 4.0
    one_more = ew.PrivacyCurve([(2.0, 1.0 / 3.0, result.steps + 1)]).epsilon(result.delta)
    assert one_more.lower > 4.0


def test_seeds_repeat_and_differ():
    first, again, other = (run(seed=seed).log for seed in (0, 0, 1))
    assert [record["loss"] for record in first] == [record["loss"] for record in again]
    assert [record["loss"] for record in first] != [record["loss"] for record in other]
    unseeded = [run(seed=None).log for _ in range(2)]
    assert [record["loss"] for record in unseeded[0]] != [record["loss"] for record in unseeded[1]]


@clips_bf16
def test_mixed_precision_clips_in_full_precision(monkeypatch: pytest.MonkeyPatch):
    """On a processor in bf16, which is what CUDA devices do: slow, but it takes the same way."""
    monkeypatch.setattr("opacus_edgeworth.finetune.run.choose_device", lambda _: (torch.device("cpu"), True))
    kinds = set()
    original = torch.optim.AdamW.step

    def step(self: Any, closure: Any = None) -> None:
        kinds.update(p.grad_sample.dtype for group in self.param_groups for p in group["params"])
        original(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    result = run(method="full")
    assert kinds == {torch.float32}
    assert result.epsilon.upper <= 8.0 * (1.0 + 1e-9)
    assert result.statement["mechanism"]["grad_sample_mode"] == "hooks"


def test_secure_mode_names_what_it_needs():
    with pytest.raises(ew.EdgeworthError, match="secure_mode=True needs torchcsprng"):
        run(secure_mode=True, seed=None)


def test_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    run()
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"clipping": "per_layer"},
        {"grad_sample_mode": "ghost", "method": "full"},
        {"dropout": None, "schedule": "linear", "weight_decay": 0.01, "head_learning_rate": 0.1},
        {"accountant": "rdp"},
    ],
    ids=str,
)
def test_settings_work_together(settings: dict[str, Any]):
    result = run(**settings)
    assert result.epsilon.upper <= 8.0 * (1.0 + 1e-9)
    assert result.steps == 3


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_embeddings_may_be_trained(family: str):
    model = tiny.model(family)
    result = run(
        model, method="full", train_embeddings=True, tokenizer=tiny.tokenizer(types=family != "distilbert"),
        learning_rate=1e-6, head_init="keep",
    )  # fmt: skip
    names = changed(model, result.classifier.classifier.model)
    assert any("word_embeddings" in name for name in names)
    assert any("position_embeddings" in name for name in names)
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        theirs = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ours = result.classifier.classifier(input_ids=ids, attention_mask=torch.ones_like(ids))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)  # still the same function


def test_logical_batch_needs_no_more_memory_than_a_physical_one(monkeypatch: pytest.MonkeyPatch):
    from opacus_edgeworth.finetune.encoding import TokenRows

    sizes = []
    original = TokenRows.batch
    monkeypatch.setattr(
        TokenRows, "batch", lambda self, rows, device: sizes.append(len(rows)) or original(self, rows, device)
    )
    result = run(data=tiny.texts(2500), batch_size=2000, physical_batch_size=100, method="bitfit")
    assert (result.steps, max(sizes) <= 100) == (2, True)
    assert sum(sizes) > 2000


def test_one_vector_of_each_example_comes_in_larger_pieces(monkeypatch: pytest.MonkeyPatch):
    """Regression: asked for while the encoder was put aside, the default was that of a whole encoder, 64."""
    from opacus_edgeworth.finetune.features import CachedRows

    sizes = []
    original = CachedRows.batch
    monkeypatch.setattr(
        CachedRows, "batch", lambda self, rows, device: sizes.append(len(rows)) or original(self, rows, device)
    )
    run(data=tiny.texts(600), batch_size=300, method="head")
    assert max(sizes) > 200


MODELS: dict[str, Any] = {
    "batch norm": (lambda: add_batch_norm(tiny.model()), {}, "BatchNorm layer .*GroupNorm"),
    "no model": (lambda: 7, {}, "model=int is neither"),
    "no such folder": (lambda: "/nowhere/at/all", {"tokenizer": None}, "cannot be loaded"),
    "other classes": (lambda: tiny.model(classes=3), {}, "3 classes and the data 2"),
    "no tokenizer": (tiny.model, {"tokenizer": None}, "tokenizer is missing"),
    "too many layers": (tiny.model, {"top_layers": 9}, "top_layers=9 is more than the model's 3"),
    "too many tokens": (tiny.model, {"max_tokens": 99}, "max_tokens=99 is more than the model's 40"),
    "too many pooled": (tiny.model, {"pooling": "mean", "pooling_layers": 9}, "pooling_layers=9"),
    "no encoder": (tiny.decoder, {}, "no stack of encoder layers"),
    "cache not exact": (tiny.model, {"feature_cache": "on", "method": "full"}, "no encoder layer is frozen"),
    "cache with dropout": (
        tiny.model, {"feature_cache": "on", "method": "head", "dropout": 0.1}, "frozen layers have dropout",
    ),
    "ghost per layer": (tiny.model, {"grad_sample_mode": "ghost", "clipping": "per_layer"}, "does not serve"),
    "bf16 on a processor": (tiny.model, {"precision": "bf16", "device": "cpu"}, "bf16"),
    "unknown device": (tiny.model, {"device": "quantum"}, "device='quantum' cannot be used"),
    "another vocabulary": (lambda: tiny.model(vocabulary=12), {}, "the model has only 12"),
    "nothing to resume": (tiny.model, {"resume": True}, "needs output="),
}  # fmt: skip


def add_batch_norm(model: Any) -> Any:
    model.classifier = torch.nn.Sequential(torch.nn.BatchNorm1d(32), model.classifier)
    return model


@pytest.mark.parametrize("case", MODELS)
def test_bad_models_are_refused_before_any_training(case: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("opacus_edgeworth.finetune.run.train", lambda *_: pytest.fail("trained"))
    make, settings, message = MODELS[case]
    with pytest.raises(ew.InvalidParameterError, match=message):
        run(make(), **settings)


def test_output_of_a_run_that_ended_is_not_overwritten(tmp_path: Path):
    run(output=tmp_path)
    with pytest.raises(ew.InvalidParameterError, match="holds a run that ended"):
        run(output=tmp_path)
    with pytest.raises(ew.InvalidParameterError, match="give the output of a run that ended"):
        load_classifier(tmp_path / "adapter")


def test_core_needs_no_transformers_and_the_extra_is_named():
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("transformers", "peft"):
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
import importlib.util
original = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("transformers", "peft") else original(name, *rest)
import opacus_edgeworth
assert not {"transformers", "peft", "typer"} & set(sys.modules)
try:
    import opacus_edgeworth.finetune
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ("transformers, peft are not installed; run `pip install opacus_edgeworth[finetune]`")
