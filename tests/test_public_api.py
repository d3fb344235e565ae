"""Names and signatures are a promise; README and docstrings are programs."""

import dataclasses
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import opacus_edgeworth as ew
from opacus_edgeworth.targets import TargetArguments

ROOT = Path(__file__).parent.parent
MODULES = [
    "bounds", "mechanisms", "curve", "calibration", "accountant", "certification.certificate", "certification.audit",
    "edgeworth.approximation", "edgeworth.tilted", "schedules", "planning",
]  # fmt: skip


def test_public_names():
    assert sorted(ew.__all__) == [
        "Bounds", "CalibrationError", "Certificate", "CertificationError", "EdgeworthAccountant",
        "EdgeworthApproximation", "EdgeworthError", "EstimateWarning", "InvalidParameterError", "Plan", "PlanPoint",
        "PrivacyCurve", "PrivacyEngine", "TiltedEdgeworth", "UnsoundTrainingError", "UnsoundTrainingWarning", "audit",
        "calibrate_batch_size", "calibrate_delta", "calibrate_noise_multiplier", "calibrate_sample_rate",
        "calibrate_steps", "check", "check_certificate", "mechanisms", "plan", "sampling", "schedules",
    ]  # fmt: skip


def test_signatures():
    assert list(inspect.signature(ew.PrivacyCurve).parameters) == ["history", "adjacency"]
    assert list(inspect.signature(ew.PrivacyCurve.delta).parameters) == ["self", "epsilon", "direction"]
    assert list(inspect.signature(ew.PrivacyCurve.epsilon).parameters) == ["self", "delta"]
    names = ["sample_rate", "steps", "epochs", "schedule", "spent", "rel_tol", "target"]
    signature = inspect.signature(ew.calibrate_noise_multiplier)
    assert list(signature.parameters) == names
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    targets = [
        "target_epsilon",
        "target_delta",
        "target_advantage",
        "target_tpr",
        "target_fpr",
        "target_mu",
        "adjacency",
    ]
    assert list(TargetArguments.__annotations__) == targets
    signature = inspect.signature(ew.audit)
    assert list(signature.parameters) == ["history", "epsilon", "delta"]
    assert all(signature.parameters[n].kind is inspect.Parameter.KEYWORD_ONLY for n in ("epsilon", "delta"))
    assert list(inspect.signature(ew.check_certificate).parameters) == ["certificate"]


def test_finetuning_names_and_signatures():
    finetune = importlib.import_module("opacus_edgeworth.finetune")
    assert finetune.__all__ == [
        "Examples", "FinetuneResult", "FinetuneSettings", "TaskData", "TextClassifier", "finetune", "load_classifier",
        "load_data",
    ]  # fmt: skip
    parameters = inspect.signature(finetune.finetune).parameters
    assert list(parameters) == [
        "model", "data", "target_epsilon", "target_delta", "epochs", "batch_size", "max_grad_norm", "method",
        "tokenizer", "output", "resume", "settings",
    ]  # fmt: skip
    fields = {field.name: field.default for field in dataclasses.fields(finetune.FinetuneSettings)}
    for name, parameter in parameters.items():
        if name in fields:
            assert (parameter.default, parameter.kind) == (fields[name], inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"opacus_edgeworth.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_readme_programs_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
