"""Logged models: kept whole, found again, scored, ranked and fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tracking.models import fetch_model, log_detector, score_model
from tracking.registry import Registry
from tracking.runs import run
from tracking.store import Store, TrackingError, open_store

Make = Callable[[int], Path]
FILES = ["SHA256SUMS", "config.json", "history.json", "weights.safetensors"]


def test_a_model_holds_its_checkpoint_and_nothing_else(
    store: Store, experiment: str, checkpoint: Path, tmp_path: Path
) -> None:
    with run(store, experiment, "r", key="k") as handle:
        model_id = log_detector(
            handle,
            name="lite0: 50%",
            folder=checkpoint,
            metrics={"auc/val": 0.9},
            params={"train": {"epochs": 3}},
            tags={"manifest": "abc"},
        )
    model = store.client.get_logged_model(model_id)
    assert (str(model.status), model.source_run_id, model.name) == ("READY", handle.id, "lite0- 50-")
    assert model.params == {"train.epochs": "3"}
    assert model.tags["manifest"] == "abc"
    assert [(metric.key, metric.value) for metric in model.metrics] == [("auc/val", 0.9)]
    assert [output.model_id for output in store.client.get_run(handle.id).outputs.model_outputs] == [model_id]
    fetched = fetch_model(store, model_id, tmp_path / "a" / "model")
    assert sorted(path.name for path in fetched.iterdir()) == FILES
    for name in FILES[1:]:
        assert (fetched / name).read_bytes() == (checkpoint / name).read_bytes()
    assert sorted(path.name for path in fetched.parent.iterdir()) == ["model"]


def test_mlflow_reads_it_as_a_model_of_its_own(store: Store, experiment: str, checkpoint: Path) -> None:
    import mlflow

    with run(store, experiment, "r", key="k") as handle:
        model_id = log_detector(handle, name="d", folder=checkpoint)
    store.activate()
    info = mlflow.models.get_model_info(f"models:/{model_id}")
    assert info.flavors["counterforge"]["weights"] == "weights.safetensors"


def test_logging_again_makes_no_second_model(
    store: Store, experiment: str, checkpoint: Path, make_checkpoint: Make
) -> None:
    with run(store, experiment, "r", key="k") as handle:
        first = log_detector(handle, name="d", folder=checkpoint)
    with run(store, experiment, "r", key="k") as handle:
        assert log_detector(handle, name="d", folder=checkpoint) == first
        assert log_detector(handle, name="d", folder=make_checkpoint(1)) != first


def test_a_model_whose_upload_was_interrupted_is_completed(
    store: Store, experiment: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with run(store, experiment, "r", key="k") as handle:
        with monkeypatch.context() as patch:
            patch.setattr(type(store.client), "finalize_logged_model", interrupted)
            with pytest.raises(KeyboardInterrupt):
                log_detector(handle, name="d", folder=checkpoint)
        (pending,) = store.client.search_logged_models([handle.experiment_id])
        with pytest.raises(TrackingError, match="is no finished model"):
            fetch_model(store, pending.model_id, tmp_path / "m")
        with pytest.raises(TrackingError, match="PENDING, not READY"):
            Registry(store, experiment.split("[")[0][:40].strip()).register(pending.model_id)
        assert log_detector(handle, name="d", folder=checkpoint) == pending.model_id
    assert str(store.client.get_logged_model(pending.model_id).status) == "READY"


def test_a_folder_that_is_no_checkpoint(store: Store, experiment: str, tmp_path: Path) -> None:
    with run(store, experiment, "r", key="k") as handle, pytest.raises(TrackingError, match=r"lacks weights.*config"):
        log_detector(handle, name="d", folder=tmp_path)


def test_mlflow_ranks_models_by_their_scores_on_a_dataset(store: Store, experiment: str, make_checkpoint: Make) -> None:
    scores = {"a": 0.7, "b": 0.9, "c": 0.8}
    ids = {}
    for seed, (name, auc) in enumerate(scores.items()):
        with run(store, experiment, name, key=name) as handle:
            folder = make_checkpoint(seed)
            ids[name] = log_detector(handle, name=name, folder=folder, params={"lr": seed})
            named = score_model(store, ids[name], "celeb df", "d1", {"auc": auc, "eer": 1 - auc}, handle)
            assert named == {"auc/celeb df": auc, "eer/celeb df": pytest.approx(1 - auc)}
            score_model(store, ids[name], "celeb df", "d2", {"auc": 1 - auc}, handle)
    with run(store, experiment, "unscored", key="unscored") as handle:
        log_detector(handle, name="unscored", folder=make_checkpoint(9))

    def ranked(metric: str, ascending: bool = False, **dataset: str) -> list[str]:
        order = {"field_name": f"metrics.{metric}", "ascending": ascending} | dataset
        return [m.name for m in store.client.search_logged_models([store.experiment(experiment)], order_by=[order])]

    # The newest score counts; the digest picks the content of the dataset.
    assert ranked("auc/celeb df") == ["a", "c", "b", "unscored"]
    first = {"dataset_name": "celeb df", "dataset_digest": "d1"}
    assert ranked("auc/celeb df", **first) == ["b", "c", "a", "unscored"]
    assert ranked("eer/celeb df", ascending=True) == ["b", "c", "a", "unscored"]
    assert store.client.get_logged_model(ids["b"]).params["lr"] == "1"
    found = store.client.search_logged_models(
        [store.experiment(experiment)],
        filter_string="metrics.`auc/celeb df` > 0.85",
        datasets=[{"dataset_name": "celeb df", "dataset_digest": "d1"}],
    )
    assert [model.name for model in found] == ["b"]
    assert {metric.dataset_digest for metric in found[0].metrics if metric.key == "auc/celeb df"} == {"d1", "d2"}


def test_fetching_again_replacing_and_refusing(
    store: Store, experiment: str, checkpoint: Path, make_checkpoint: Make, tmp_path: Path
) -> None:
    with run(store, experiment, "r", key="k") as handle:
        first = log_detector(handle, name="d", folder=checkpoint)
        second = log_detector(handle, name="d", folder=make_checkpoint(5))
    to = tmp_path / "serving"
    fetch_model(store, first, to)
    before = (to / "weights.safetensors").stat().st_ino
    fetch_model(store, f"models:/{first}", to)
    assert (to / "weights.safetensors").stat().st_ino == before
    (to / "weights.safetensors").write_bytes(b"damaged on disk")
    fetch_model(store, first, to)
    assert (to / "weights.safetensors").read_bytes() == (checkpoint / "weights.safetensors").read_bytes()
    fetch_model(store, second, to)
    assert json.loads((to / "config.json").read_text())["seed"] == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(TrackingError, match="holds something that is no model"):
        fetch_model(store, first, tmp_path / "mine")
    with pytest.raises(TrackingError, match="cannot fetch the model m-none"):
        fetch_model(store, "m-none", tmp_path / "x")


def test_damaged_and_misleading_artifacts_are_refused(
    store: Store, experiment: str, checkpoint: Path, tmp_path: Path
) -> None:
    with run(store, experiment, "r", key="k") as handle:
        model_id = log_detector(handle, name="d", folder=checkpoint)
    (kept,) = [path.parent for path in store.root.rglob("SHA256SUMS") if model_id in str(path)]
    weights = (kept / "weights.safetensors").read_bytes()
    (kept / "weights.safetensors").write_bytes(b"\1" + weights[1:])
    with pytest.raises(TrackingError, match="differ from their checksums"):
        fetch_model(store, model_id, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    (kept / "SHA256SUMS").write_text(f"{'0' * 64}  ../../escape\n")
    with pytest.raises(TrackingError, match="files outside the model"):
        fetch_model(store, model_id, tmp_path / "m")


def test_models_through_a_server(
    store: Store, server: str, experiment: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    remote = open_store(store.root)
    try:
        with run(remote, experiment, "r", key="k") as handle:
            model_id = log_detector(handle, name="d", folder=checkpoint)
            score_model(remote, model_id, "x", "d1", {"auc": 0.7}, handle)
            handle.dataset("x", "d1", "x.parquet", {"real": 1}, "test")
        registry = Registry(remote, "through-a-server")
        version = registry.register(model_id, {"study": "s"})
        assert registry.register(model_id).number == version.number == 1
        registry.promote(1, {"passed": True})
        fetched = fetch_model(remote, "champion", tmp_path / "m", registry=registry)
        assert sorted(path.name for path in fetched.iterdir()) == FILES
        assert {m.key: m.value for m in remote.client.get_logged_model(model_id).metrics} == {"auc/x": 0.7}
        linked = json.loads(remote.client.get_logged_model(model_id).tags["mlflow.modelVersions"])
        assert [link["name"] for link in linked] == ["through-a-server"]
    finally:
        store.activate()
    # Without the server: the same folder, the same model.
    assert fetch_model(store, "1", tmp_path / "n", registry=Registry(store, "through-a-server")).exists()
