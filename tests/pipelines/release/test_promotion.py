"""Promotion with real models, store and gate: beaten, refused, overtaken, rolled back, and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from classifier.models.detector import Detector
from core.errors import UserError
from pipelines.release import promotion
from pipelines.release.gate import Gate
from pipelines.release.promotion import Verdict, compare_versions, evaluate_gate
from tracking.registry import Registry
from tracking.runs import run
from tracking.store import Store

Judge = Callable[..., Verdict]


@pytest.fixture(scope="module")
def versions(register: Callable[..., int], make_detector: Callable[..., Detector]) -> dict[str, int]:
    """Three that find the weave and one that knows nothing; the guesser is registered first."""
    made = {"guess": register(make_detector(skilled=False, seed=9), "guess")}
    return made | {f"good{seed}": register(make_detector(seed=seed), f"good{seed}") for seed in range(3)}


@pytest.fixture(scope="module")
def judge(store: Store, cache: Path) -> Judge:
    def call(candidate: int | str, **options: object) -> Verdict:
        return evaluate_gate(store, candidate, cache=cache, **options)  # type: ignore[arg-type]

    return call


def aliases(store: Store) -> dict[str, int]:
    return {alias: version.number for version in Registry(store).versions() for alias in version.aliases}


def test_a_guesser_is_refused_and_the_reason_stays_on_it(versions: dict[str, int], judge: Judge, store: Store) -> None:
    number = versions["guess"]
    verdict = judge(number, dry_run=True)
    assert "gate" not in Registry(store).resolve(number).tags
    assert verdict == judge(number)
    assert not verdict.promoted
    assert "does not beat the floor" in verdict.reason
    version = Registry(store).resolve(number)
    assert version.tags["gate"] == "refused"
    assert json.loads(version.tags["gate_report"])["promoted"] is False
    description = store.client.get_model_version(version.name, str(number)).description
    assert description.startswith("**Refused by the gate**")
    assert "| champion | NO |" in description
    assert "champion" not in aliases(store)


def test_the_first_good_one_is_promoted_with_every_rule_measured(
    versions: dict[str, int], judge: Judge, store: Store
) -> None:
    gate = Gate(min_worst_auc_low=0.6, max_ece=0.5, max_ms_per_image=10_000)
    would = judge(versions["good0"], gate=gate, dry_run=True)
    assert would.promoted
    assert "champion" not in aliases(store)
    verdict = judge(versions["good0"], gate=gate)
    assert [each.rule for each in verdict.checks] == [
        "champion",
        "worst dataset",
        "calibration",
        "latency",
        "lineage",
    ]
    assert verdict.promoted
    assert aliases(store)["champion"] == versions["good0"]
    assert Registry(store).metrics(Registry(store).resolve("champion"))["ms_per_image"] > 0
    assert judge("champion").reason.endswith("is the champion already")
    assert [event.version for event in Registry(store).history()] == [versions["good0"]]


def test_an_equal_is_refused_but_may_be_let_through_for_a_reason(
    versions: dict[str, int], judge: Judge, store: Store
) -> None:
    number = versions["good1"]
    strict = judge(number)
    assert not strict.promoted
    assert "must lie above zero" in strict.reason
    lenient = Gate.model_validate({"champion": {"rule": "non-inferior", "margin": 0.3, "because": "smaller"}})
    asked = lenient.model_copy(update={"min_robust_auc": 0.5, "licence": True})
    missing = judge(number, gate=asked)
    assert not missing.promoted
    assert "robustness (not measured" in missing.reason
    assert "licence (none" in missing.reason
    verdict = judge(number, gate=lenient)
    assert verdict.promoted
    assert "is not inferior to the champion" in verdict.reason
    found = aliases(store)
    assert (found["champion"], found["previous"]) == (number, versions["good0"])
    assert Registry(store).rollback("too slow").number == versions["good0"]
    assert [event.what for event in Registry(store).history()] == ["rollback", "promote", "promote"]


def test_untraced_models_are_refused(
    register: Callable[..., int], make_detector: Callable[..., Detector], judge: Judge, store: Store
) -> None:
    lost = make_detector(seed=5)
    number = register(lost, "lost", manifest="", training_manifest="0" * 16, generator="feedfacefeedface")
    verdict = judge(number)
    assert not verdict.promoted
    for missing in (
        "the manifest is not recorded",
        f"trained on manifest {lost.manifest_digest}, and the lineage says 0000000000000000",
        "no run here trained the generator feedfacefeedface",
    ):
        assert missing in verdict.reason
    with run(store, "gates", "generator", key="generator/1", tags={"generator": "feedfacefeedface"}):
        pass
    assert "feedface" not in judge(number, dry_run=True).reason
    traced = Registry(store).resolve(number).tags
    assert traced["git_commit"] or traced["code"].startswith("counterforge ")


def test_compare_says_which_is_higher(versions: dict[str, int], store: Store, cache: Path) -> None:
    good, guess = versions["good0"], versions["guess"]
    result = compare_versions(store, good, guess, cache=cache)
    assert f"version {good}'s is higher (the 95 % interval excludes zero)" in result.sentence
    (row,) = result.datasets
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["difference"] == pytest.approx(row[f"version {good}"] - row[f"version {guess}"])
    assert "no difference can be told" in compare_versions(store, good, versions["good2"], cache=cache).sentence
    with pytest.raises(UserError, match="no metric 'auk'"):
        compare_versions(store, good, guess, metric="auk", cache=cache)


def test_a_run_without_a_model_is_named(versions: dict[str, int], judge: Judge, store: Store) -> None:
    with run(store, "gates", "empty", key="empty") as active:
        pass
    with pytest.raises(UserError, match=r"the run .* \(empty\) holds no model"):
        judge(active.id)
    own = Registry(store).resolve(versions["good2"])
    assert own.run_id
    assert judge(own.run_id, dry_run=True).version == own.number
    assert judge(own.model_id, dry_run=True).version == own.number
    with pytest.raises(UserError, match="is no version"):
        judge("m-0000")


def test_who_is_overtaken_during_the_gate_is_not_promoted(
    versions: dict[str, int], judge: Judge, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's promotion between the measurement and the move; two processes race in tests/tracking."""
    registry = Registry(store)
    champion, mine, other = versions["good0"], versions["good1"], versions["good2"]
    gather = promotion._gather

    def somebody_else_is_faster(*arguments: object) -> object:
        found = gather(*arguments)  # type: ignore[arg-type]
        registry.promote(other, {}, why="faster")
        return found

    monkeypatch.setattr(promotion, "_gather", somebody_else_is_faster)
    gate = Gate.model_validate({"champion": {"rule": "non-inferior", "margin": 0.4, "because": "a race"}})
    verdict = judge(mine, gate=gate)
    assert not verdict.promoted
    assert f"but version {other} is it now" in verdict.reason
    found = aliases(store)
    assert (found["champion"], found["previous"]) == (other, champion)
    assert registry.resolve(mine).tags["gate"] == "overtaken"
