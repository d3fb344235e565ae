"""Certificates hold the truth, their checker refuses whatever does not follow, and no choice can make them wrong."""

import functools
import json
import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import reference_cases

from opacus_edgeworth import CertificationError, InvalidParameterError, PrivacyCurve
from opacus_edgeworth.certification import balls, composed, typed_json
from opacus_edgeworth.certification.audit import audit
from opacus_edgeworth.certification.certificate import Certificate, Claim, check_certificate, complete_proof

flint = pytest.importorskip("flint")

DIGITS = 1e-15  # the reference's own accuracy
RARE = [[[0.5, 0.02, 60]], [[0.2, 0.001, 50]], [[1.0, 0.01, 2]], [[0.7, 0.001, 20]]]
CASES = [
    pytest.param(case, id=str(case["history"]), marks=[pytest.mark.slow] if case["history"] in RARE else [])
    for case in reference_cases()
]
ORDINARY = ((1.0, 0.01, 10_000),)
SPLIT = ((0.3, 0.01, 100),)  # rare events: a difference of two laws
CUT = ((3.0, 0.001, 5000),)  # the law is cut off
TWO_PHASES = ((1.0, 0.5, 10), (3.0, 1.0, 4))
BOTH_LINES = ((1.0, 0.01, 1000),)  # the add direction is too close for a Chernoff bound
EPSILON = {ORDINARY: 6.188, SPLIT: 26.83, CUT: 0.0730383434, TWO_PHASES: 12.0, BOTH_LINES: 0.3747}


@functools.cache
def certified(history, quantity="delta"):
    """One certificate per history: they are immutable."""
    if quantity == "delta":
        return audit(history, epsilon=EPSILON[history])
    return audit(history, delta=1e-5)


def forge(certificate, change):
    """Change the content as JSON, renew the digest, and return what a reader would see."""
    content = json.loads(certificate.to_json())
    del content["digest"]
    change(content)
    return Certificate.from_json(json.dumps({**content, "digest": typed_json.digest(content)}))


def with_digit(text, position):
    return text[:position] + str((int(text[position]) + 1) % 10) + text[position + 1 :]


def spelled(number):
    return f"{number!r} {number.hex()}"


@pytest.mark.parametrize("case", CASES)
def test_delta_encloses_reference(case):
    exact = max(case["delta_remove"], case["delta_add"] or 0.0)
    claim = audit(case["history"], epsilon=case["epsilon"]).claim
    assert claim.lower <= exact * (1 + DIGITS)
    assert claim.upper >= exact * (1 - DIGITS)
    assert claim.upper - claim.lower <= 1e-14 * exact
    curve = PrivacyCurve(case["history"]).delta(case["epsilon"])
    assert curve.lower <= claim.upper
    assert curve.upper >= claim.lower


@pytest.mark.parametrize("history", list(EPSILON), ids=str)
@pytest.mark.parametrize("quantity", ["delta", "epsilon"])
def test_certificate_is_accepted_and_survives_a_round_trip(history, quantity, tmp_path):
    certificate = certified(history, quantity)
    check_certificate(certificate)
    assert Certificate.from_json(certificate.to_json()) == certificate
    certificate.save(tmp_path / "certificate.json")
    again = Certificate.load(tmp_path / "certificate.json")
    assert again == certificate
    assert again.to_json() == certificate.to_json()


@pytest.mark.parametrize("history", list(EPSILON), ids=str)
def test_epsilon_is_the_curves_own(history):
    claim, curve = certified(history, "epsilon").claim, PrivacyCurve(history).epsilon(1e-5)
    assert (claim.quantity, claim.at, claim.lower, claim.upper) == ("epsilon", 1e-5, curve.lower, curve.upper)


def test_the_routes_are_the_expected_ones():
    rule = {history: certified(history).proofs[0].rules[0] for history in (ORDINARY, SPLIT, CUT)}
    assert not rule[ORDINARY].cut
    assert not rule[ORDINARY].split
    assert rule[SPLIT].split
    assert rule[CUT].cut
    assert [p.method for p in certified(BOTH_LINES).proofs] == ["line", "line"]
    assert [p.method for p in certified(SPLIT).proofs] == ["line", "limit"]
    assert [p.method for p in certified(ORDINARY).proofs] == ["line", "chernoff"]


@pytest.mark.parametrize("history", [((1.0, 0.01, 1),), ((50.0, 1.0, 1000), (30.0, 1.0, 5))], ids=str)
def test_closed_forms(history):
    certificate = audit(history, epsilon=0.25)
    assert {proof.method for proof in certificate.proofs} == {"closed form"}
    check_certificate(certificate)
    assert certificate.claim.upper - certificate.claim.lower <= 1e-15 * certificate.claim.upper
    curve = PrivacyCurve(history).delta(0.25)
    assert curve.lower <= certificate.claim.upper
    assert curve.upper >= certificate.claim.lower


def test_every_digit_of_the_claim_counts():
    text = certified(ORDINARY).to_json()
    start = text.index('"claim"')
    positions = [i for i in range(start, text.index("}", start)) if text[i].isdigit()]
    assert len(positions) > 60
    for position in positions:
        with pytest.raises(CertificationError):
            check_certificate(Certificate.from_json(with_digit(text, position)))


@pytest.mark.parametrize("quantity", ["delta", "epsilon"])
@pytest.mark.parametrize("digit", range(1, 16))
@pytest.mark.parametrize("end", ["lower", "upper", "at"])
def test_an_altered_claim_is_refused_under_a_new_digest(quantity, digit, end):
    certificate = certified(ORDINARY, quantity)
    value = getattr(certificate.claim, end)
    step = 10.0 ** (math.floor(math.log10(value)) - digit + 1)
    for altered in (value - step, value + step):
        claim = replace(certificate.claim, **{end: altered})
        slack = quantity == "epsilon" and end == "at"
        if slack and abs(altered / value - 1) < 1e-11:  # follows still: the curve's ends leave that much room
            continue
        with pytest.raises(CertificationError):
            check_certificate(replace(certificate, claim=claim))


def test_another_history_is_refused():
    certificate = certified(ORDINARY)
    for index, value in ((0, 1.0000001), (1, 0.010000001), (2, 10_001)):
        phase = list(ORDINARY[0])
        phase[index] = value
        with pytest.raises(CertificationError):
            check_certificate(replace(certificate, history=(tuple(phase),)))


CHANGES = {
    "amplitude": lambda c: c["proofs"][0]["amplitudes"].__setitem__(3, with_digit(c["proofs"][0]["amplitudes"][3], 2)),
    "amplitude missing": lambda c: c["proofs"][0]["amplitudes"].pop(),
    "amplitude no number": lambda c: c["proofs"][0]["amplitudes"].__setitem__(0, "1 x 2"),
    "amplitude underscored": lambda c: c["proofs"][0]["amplitudes"].__setitem__(0, "1_0 0 2"),
    "negative radius": lambda c: c["proofs"][0]["amplitudes"].__setitem__(0, "0 0 -5"),
    "huge radius": lambda c: c["proofs"][0]["amplitudes"].__setitem__(0, "0 0 1" + "0" * 60),
    "unit": lambda c: c["proofs"][0].__setitem__("unit", c["proofs"][0]["unit"] + 1),
    "tilt": lambda c: c["proofs"][0].__setitem__("tilt", spelled(3.0)),
    "step": lambda c: c["proofs"][0].__setitem__("step", spelled(0.25)),
    "nodes fewer": lambda c: c["proofs"][0].__setitem__("nodes", 3),
    "nodes hostile": lambda c: c["proofs"][0].__setitem__("nodes", 10**12),
    "bits hostile": lambda c: c["proofs"][0].__setitem__("bits", 10**9),
    "unit hostile": lambda c: c["proofs"][0].__setitem__("unit", 10**30),
    "scores hostile": lambda c: c["proofs"][0]["rules"][0].__setitem__("last", 10**12),
    "scores far": lambda c: c["proofs"][0]["rules"][0].update(first=2**60, last=2**60 + 5),
    "spacing": lambda c: c["proofs"][0]["rules"][0].__setitem__("spacing", spelled(0.5)),
    "spacing tiny": lambda c: c["proofs"][0]["rules"][0].__setitem__("spacing", spelled(1e-300)),
    "spacing negative": lambda c: c["proofs"][0]["rules"][0].__setitem__("spacing", spelled(-0.1)),
    "strip too wide": lambda c: c["proofs"][0]["rules"][0].__setitem__("strip", spelled(3.2)),
    "shift too wide": lambda c: c["proofs"][0]["rules"][0].__setitem__("shift", spelled(3.2)),
    "barrier without width": lambda c: c["proofs"][0]["rules"][0].__setitem__("cut", [spelled(9.0)]),
    "rule missing": lambda c: c["proofs"][0].__setitem__("rules", []),
    "side tilts": lambda c: c["proofs"][0].__setitem__("side_tilts", [spelled(0.5), spelled(20.0)]),
    "truncation": lambda c: c["proofs"][0]["results"][0]["terms"].__setitem__("truncation", spelled(1e-30)),
    "alias below": lambda c: c["proofs"][0]["results"][0]["terms"].__setitem__("alias below", spelled(0.0)),
    "term missing": lambda c: c["proofs"][0]["results"][0]["terms"].pop("cut off"),
    "result": lambda c: c["proofs"][0]["results"][0].__setitem__("upper", spelled(9.9e-6)),
    "direction": lambda c: c["proofs"][0].__setitem__("direction", "add"),
    "method": lambda c: c["proofs"][1].__setitem__("method", "limit"),
    "method closed": lambda c: c["proofs"][0].update(method="closed form", rules=[]),
    "method unknown": lambda c: c["proofs"][0].__setitem__("method", "oracle"),
    "proof missing": lambda c: c["proofs"].pop(),
    "proofs missing": lambda c: c.__setitem__("proofs", []),
    "proof twice": lambda c: c.__setitem__("proofs", [c["proofs"][0]] * 2),
    "quantity": lambda c: c["claim"].__setitem__("quantity", "epsilon"),
    "format": lambda c: c.__setitem__("format", 2),
    "format true": lambda c: c.__setitem__("format", True),
    "float as number": lambda c: c["claim"].__setitem__("upper", 1e-5),
    "nan": lambda c: c["claim"].__setitem__("upper", "nan nan"),
    "infinite": lambda c: c["claim"].__setitem__("upper", "inf inf"),
    "two spellings": lambda c: c["claim"].__setitem__("upper", "0.5 " + (0.25).hex()),
    "field missing": lambda c: c["claim"].pop("at"),
    "field added": lambda c: c["claim"].__setitem__("more", 1),
    "no noise": lambda c: c["history"][0].__setitem__(0, spelled(0.0)),
    "steps negative": lambda c: c["history"][0].__setitem__(2, -5),
    "phase added": lambda c: c["history"].append([spelled(1.0), spelled(0.5), 1]),
    "phase unsampled": lambda c: c["history"].append([spelled(9.0), spelled(1.0), 1]),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_alterations_are_refused_under_a_new_digest(name):
    with pytest.raises(CertificationError):
        check_certificate(forge(certified(ORDINARY), CHANGES[name]))


def test_the_unaltered_forgery_is_accepted():  # so that the refusals above have their stated cause
    check_certificate(forge(certified(ORDINARY), lambda content: None))


@pytest.mark.parametrize("term", ["quiet events", "cut off", "truncation", "alias above"])
def test_error_terms_of_rare_events_count(term):
    def shrink(content):
        terms = content["proofs"][0]["results"][0]["terms"]
        terms[term] = spelled(0.5 * float(terms[term].split(" ")[0]))

    with pytest.raises(CertificationError, match=term):
        check_certificate(forge(certified(SPLIT), shrink))


def test_barriers_out_of_order_are_refused():  # the loud events' weight would be negative
    def swap(content):
        rule = content["proofs"][0]["rules"][0]
        rule["split"], rule["cut"] = rule["cut"], rule["split"]

    with pytest.raises(CertificationError, match="split"):
        check_certificate(forge(certified(SPLIT), swap))


def test_damaged_texts_are_refused():
    text = certified(ORDINARY).to_json()
    damaged = [text[: len(text) * k // 40] for k in range(40)]
    damaged += ["[" * 100_000, "{}", "[]", "null", '"digest"', '{"digest": 1}', text.replace('"digest"', '"digets"')]
    damaged += [with_digit(text, i) for i in range(len(text)) if text[i].isdigit()][::97]
    for piece in damaged:
        with pytest.raises(CertificationError):
            check_certificate(Certificate.from_json(piece))


def test_what_is_no_certificate_is_refused(tmp_path):
    for thing in (None, 5, Claim("delta", 1.0, 0.0, 1.0), replace(certified(ORDINARY), history=5)):
        with pytest.raises(CertificationError):
            check_certificate(thing)  # type: ignore[arg-type]
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CertificationError):
        Certificate.load(tmp_path / "binary")


def vary(rng, value):
    return value * rng.choice([1.0, 1.0, rng.uniform(0.4, 2.5)])


@pytest.mark.parametrize("history", list(EPSILON), ids=str)
def test_no_choice_makes_a_proof_wrong(history):
    """Bad contours, steps, strips and barriers widen the bounds or are refused: they never exclude the truth."""
    rng = random.Random(7)
    certificate = certified(history)
    narrow = 0
    for proof in [p for p in certificate.proofs if p.method == "line"]:
        true = proof.results[0]
        for _ in range(12):
            rules = tuple(
                replace(
                    rule,
                    spacing=vary(rng, rule.spacing),
                    first=int(vary(rng, rule.first)),
                    last=min(int(vary(rng, rule.last)), 20_000),
                    strip=vary(rng, rule.strip),
                    shift=vary(rng, rule.shift),
                    shifted_strip=vary(rng, rule.shifted_strip),
                    width=vary(rng, rule.width),
                    split=tuple(vary(rng, end) for end in rule.split),
                    cut=tuple(vary(rng, end) for end in rule.cut),
                )
                for rule in proof.rules
            )
            choice = replace(
                proof,
                tilt=1.0 + vary(rng, proof.tilt - 1.0),
                step=vary(rng, proof.step),
                nodes=max(int(vary(rng, proof.nodes)), 1) if proof.nodes < 200 else proof.nodes // 2,
                side_tilts=tuple(1.0 + vary(rng, tilt - 1.0) for tilt in proof.side_tilts),
                bits=rng.choice([64, 96, proof.bits]),
                rules=rules,
            )
            try:
                got = complete_proof(choice, certificate.history).results[0]
            except CertificationError:
                continue
            assert got.lower <= true.upper
            assert got.upper >= true.lower
            narrow += got.upper < 1.5 * true.upper
    assert narrow > 0


RULE = balls.Rule(0.05, -260, 420, 1.5, 0.4, 1.0, 0.0, (), ())


@pytest.mark.parametrize("x", [6.0, -5.0])
@pytest.mark.parametrize(
    "barriers", [{}, {"width": 0.5, "cut": (7.0,)}, {"width": 0.5, "cut": (7.0,), "split": (2.5,)}]
)
def test_bounds_on_the_characteristic_function(x, barriers):
    """A coarse rule's enclosure holds a fine one's value, and the decay bound holds everywhere beyond."""
    arb = flint.arb
    rule = replace(RULE, **barriers)
    with flint.ctx.workprec(160):
        fine = balls.make_law(0.9, 0.02, rule)
        coarse_rule = replace(rule, spacing=0.6, first=-20, last=25, strip=1.2)
        coarse = balls.make_law(0.9, 0.02, coarse_rule)
        for part in fine.parts:
            exact = balls.line_moments(fine, part, arb(x), 1.0, 40)
            rough = balls.line_moments(coarse, part, arb(x), 1.0, 3)
            assert all(ball.overlaps(value) for ball, value in zip(rough, exact, strict=False))
            for shift in (0.05, 0.3, 0.9):
                law = balls.make_law(0.9, 0.02, replace(rule, shift=shift))
                for first in (2, 10, 25):
                    bound = balls.decay_bound(law, part, arb(x), arb(first))
                    assert all(abs(value).lower() <= bound for value in exact[first:])
            assert abs(exact[0] - balls.real_moment(fine, part, arb(x))).lower() <= 1e-20


def test_parts_of_a_law_add_up():
    with flint.ctx.workprec(160):
        whole = balls.make_law(0.9, 0.02, RULE)
        split = balls.make_law(0.9, 0.02, replace(RULE, width=0.5, split=(2.5,)))
        for x in (4.0, -3.0):
            total = sum(balls.real_moment(split, part, flint.arb(x)) for part in ("quiet", "loud"))
            assert total.overlaps(balls.real_moment(whole, "all", flint.arb(x)))
        run = composed.make_run(((0.9, 0.02, 3),), "remove", (RULE,))
        assert abs(composed.moment(run, 1.0) - 1) < 1e-20  # E_Q[e^L] = 1


def test_parameters():
    with pytest.raises(InvalidParameterError, match="exactly one"):
        audit(ORDINARY)
    with pytest.raises(InvalidParameterError, match="exactly one"):
        audit(ORDINARY, epsilon=1.0, delta=1e-5)
    with pytest.raises(InvalidParameterError, match="epsilon"):
        audit(ORDINARY, epsilon=-1.0)
    with pytest.raises(InvalidParameterError, match="history"):
        audit([(1.0, 0.01)], epsilon=1.0)


@pytest.mark.parametrize(
    ("history", "given"),
    [
        ([], {"epsilon": 1.0}),
        ([(0.0, 0.01, 5)], {"epsilon": 1.0}),
        (ORDINARY, {"epsilon": math.inf}),
        (ORDINARY, {"delta": 0.0}),
        (ORDINARY, {"delta": 1.0}),
        ([(1e-3, 0.5, 2)], {"epsilon": 1.0}),
    ],
)
def test_what_audits_cannot_reach_is_said(history, given):
    with pytest.raises(CertificationError):
        audit(history, **given)


def test_epsilon_zero():
    certificate = audit(ORDINARY, epsilon=0.0)
    check_certificate(certificate)
    curve = PrivacyCurve(ORDINARY).delta(0.0)
    assert curve.lower <= certificate.claim.upper
    assert curve.upper >= certificate.claim.lower


def test_without_flint_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(ImportError, match=r"opacus_edgeworth\[audit\]"):
        audit(ORDINARY, epsilon=1.0)


def test_importing_does_not_need_flint():
    program = "import sys; sys.modules['flint'] = None; import opacus_edgeworth"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
