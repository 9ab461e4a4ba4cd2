"""The same study on a Ray cluster of two nodes over PostgreSQL, one of which is killed half-way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from core.errors import UserError
from tests.tuning import postgres
from tests.tuning.test_faults import ROOT
from tests.tuning.test_study import config
from tuning.queue import finished
from tuning.storage import StudyStorage, quiet_optuna
from tuning.study import launch
from tuning.trial import TrialContext, TrialSpec
from tuning.worker import run_on_cluster


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    yield from postgres.running()


@pytest.mark.slow
def test_a_node_is_killed_half_way(
    server: postgres.Postgres, base: TrialSpec, context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="no Ray on this machine: pip install 'counterforge[cluster]'")
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("COUNTERFORGE_SILENCE_SECONDS", "6")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    total = 8

    def trouble() -> None:
        while True:
            with quiet_optuna():
                names = optuna.get_all_study_names(StudyStorage(server.url).open())
                if names:
                    study = optuna.load_study(study_name=names[0], storage=StudyStorage(server.url).open())
                    if len(finished(study.get_trials())) >= 2:
                        break
            time.sleep(0.5)
        cluster.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=trouble, daemon=True)
    thread.start()
    try:
        result = launch(config(trials=total, storage=server.url), base, context, workers=2, cluster=cluster.address)
    finally:
        thread.join(timeout=10)
        ray.shutdown()
        cluster.shutdown()
    assert result.history["trial"].tolist() == list(range(total))
    study = optuna.load_study(study_name=result.name, storage=StudyStorage(server.url).open())
    assert {t.state for t in study.get_trials()} <= {TrialState.COMPLETE, TrialState.FAIL}
    runs = context.store.client.search_runs([context.store.experiment(context.experiment)])
    assert sorted(r.info.run_name for r in runs if r.info.run_name.startswith("trial-")) == [
        f"trial-{slot:03d}" for slot in range(total)
    ]
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_a_cluster_needs_a_database(tmp_path: Path) -> None:
    study = optuna.create_study()
    with pytest.raises(UserError, match=r"set study\.storage to postgresql"):
        run_on_cluster("auto", str(tmp_path / "s.journal"), study, 1, 1)
