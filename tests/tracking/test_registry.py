"""The registry: who serves, who served before, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tracking.models import fetch_model, log_detector
from tracking.registry import Registry
from tracking.runs import run
from tracking.store import Store, TrackingError


@pytest.fixture
def registry(store: Store, experiment: str) -> Registry:
    return Registry(store, experiment.replace(" ", "-").replace("/", "-").replace(":", "-")[:60])


@pytest.fixture
def models(store: Store, experiment: str, make_checkpoint: Callable[[int], Path]) -> list[str]:
    ids = []
    with run(store, experiment, "r", key="k") as handle:
        for seed in range(3):
            folder = make_checkpoint(seed)
            tags = {"manifest": f"hash{seed}", "study": "s", "trial": seed}
            ids.append(log_detector(handle, name=f"d{seed}", folder=folder, metrics={"auc/x": seed / 10}, tags=tags))
    return ids


def aliases(registry: Registry) -> dict[str, int]:
    return {alias: version.number for version in registry.versions() for alias in version.aliases}


def test_an_empty_registry(registry: Registry) -> None:
    assert registry.champion() is None
    assert registry.versions() == []
    assert list(registry.list_versions().columns) == ["version", "aliases", "created", "model_id", "run_id"]
    with pytest.raises(TrackingError, match="nothing is registered yet"):
        registry.resolve("champion")
    with pytest.raises(TrackingError, match=r"no previous champion.*nothing is registered yet"):
        registry.rollback()


def test_registering_is_idempotent_and_inherits_lineage(registry: Registry, models: list[str]) -> None:
    first = registry.register(models[0], {"generator": "g1"})
    assert (first.number, first.model_id) == (1, models[0])
    assert {"manifest": "hash0", "study": "s", "trial": "0", "generator": "g1"}.items() <= first.tags.items()
    again = registry.register(models[0], {"generator": "g2"})
    assert (again.number, again.tags["generator"]) == (1, "g2")
    assert registry.register(models[1]).number == 2
    linked = json.loads(registry.store.client.get_logged_model(models[0]).tags["mlflow.modelVersions"])
    assert linked == [{"name": registry.name, "version": 1}]
    with pytest.raises(TrackingError, match=r"cannot register the model m-none.*check the name or id"):
        registry.register("m-none")


def test_promote_rollback_and_promote_again(registry: Registry, models: list[str], tmp_path: Path) -> None:
    for model_id in models:
        registry.register(model_id)
    registry.promote(1, {"passed": True})
    assert aliases(registry) == {"champion": 1}
    with pytest.raises(TrackingError, match=r"no previous champion .*versions 1, 2, 3 and the aliases champion=1"):
        registry.rollback()
    registry.challenge("v2")
    assert aliases(registry) == {"champion": 1, "challenger": 2}
    promoted = registry.promote("challenger", {"passed": True, "gain": 0.02}, {"gate": "strict"}, why="better on x")
    assert aliases(registry) == {"champion": 2, "previous": 1}
    assert promoted.tags["promoted_because"] == "better on x"
    assert promoted.tags["gate"] == "strict"
    assert json.loads(promoted.tags["gate_report"]) == {"passed": True, "gain": 0.02}
    assert promoted.tags["promoted_at"] >= "2026"
    assert promoted.tags["promoted_by"]
    registry.promote(2, {"passed": True})
    assert aliases(registry) == {"champion": 2, "previous": 1}
    assert registry.rollback().number == 1
    assert aliases(registry) == {"champion": 1, "previous": 2}
    assert "rolled_back_at" in registry.resolve(2).tags
    registry.promote(3, {"passed": True})
    assert aliases(registry) == {"champion": 3, "previous": 1}
    champion = registry.champion()
    assert champion is not None
    assert champion.model_id == models[2]
    fetched = fetch_model(registry.store, "champion", tmp_path / "served", registry=registry)
    assert json.loads((fetched / "config.json").read_text())["seed"] == 2
    assert fetch_model(registry.store, f"models:/{registry.name}@previous", fetched, registry=registry) == fetched
    assert json.loads((fetched / "config.json").read_text())["seed"] == 0


def test_a_long_report_is_kept_whole_as_a_file(registry: Registry, models: list[str]) -> None:
    report = {"passed": True, "datasets": {f"d{i}": {"auc": 0.5, "interval": [0.4, 0.6]} for i in range(300)}}
    version = registry.promote(registry.register(models[0]).number, report)
    assert json.loads(version.tags["gate_report"]) == {"passed": True}
    run_id, file = version.tags["gate_report_file"].removeprefix("runs:/").split("/", 1)
    assert json.loads(Path(registry.store.client.download_artifacts(run_id, file)).read_text()) == report


def test_resolve_takes_every_way_to_say_it(registry: Registry, models: list[str]) -> None:
    registry.promote(registry.register(models[0]).number, {})
    for text in (1, "1", "v1", "champion", f"models:/{registry.name}/1", f"models:/{registry.name}@champion"):
        assert registry.resolve(text).number == 1
    for text in ("2", "previous", "", "x"):
        with pytest.raises(TrackingError, match=r"has no version .*: there are the versions 1 and .*champion=1"):
            registry.resolve(text)


def test_the_table_of_versions(registry: Registry, models: list[str]) -> None:
    for model_id in models:
        registry.register(model_id)
    registry.promote(2, {"passed": True})
    table = registry.list_versions()
    assert list(table["version"]) == [3, 2, 1]
    assert list(table["aliases"]) == ["", "champion", ""]
    assert list(table["auc/x"]) == [0.2, 0.1, 0.0]
    assert {"manifest", "study", "trial", "promoted_at", "gate_report"} <= set(table.columns)
    assert table["created"].is_monotonic_decreasing
