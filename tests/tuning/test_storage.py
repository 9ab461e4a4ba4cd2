"""What studies use of the private interfaces of Optuna, which may change any day: tuning/storage.py has them all."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage, _CachedStorage
from optuna.trial import FrozenTrial, Trial

import tuning
from tuning.space import Range, suggest
from tuning.storage import StudyStorage, reported_steps, storage_number

PRIVATE = {
    "BaseStorage": (BaseStorage, ("create_new_trial", "set_trial_user_attr", "set_trial_state_values",
                                  "get_trial", "get_trial_system_attrs")),
    "RDBStorage": (RDBStorage, ("remove_session", "record_heartbeat", "get_heartbeat_interval")),
    "the cached storage": (_CachedStorage, ("record_heartbeat",)),
    "FrozenTrial": (FrozenTrial, ("constraints",)),
}  # fmt: skip


def test_the_installed_optuna_still_has_what_studies_use() -> None:
    lacking = [f"{name}.{each}" for name, (owner, them) in PRIVATE.items() for each in them if not hasattr(owner, each)]
    study = optuna.create_study()
    trial = study.ask()
    lacking += [f"Study.{name}" for name in ("_study_id", "_storage") if not hasattr(study, name)]
    lacking += [f"Trial.{name}" for name in ("_trial_id", "storage") if not hasattr(trial, name)]
    lacking += [] if hasattr(study.get_trials()[0], "_trial_id") else ["FrozenTrial._trial_id"]
    database = RDBStorage("sqlite://")
    lacking += [f"RDBStorage.{name}" for name in ("engine", "scoped_session") if not hasattr(database, name)]
    if lacking:
        pytest.fail(
            f"Optuna {optuna.__version__} no longer has {', '.join(lacking)}: change tuning/storage.py, or lower the "
            "upper bound of optuna in pyproject.toml"
        )


def test_trials_can_be_made_with_values_and_are_told_once(tmp_path: Path) -> None:
    """The keys of system attributes are private too."""
    storage = StudyStorage(str(tmp_path / "s.journal"))
    study = optuna.create_study(study_name="s", storage=storage.open())
    number = storage.add_trial(study, {"place": 3}, {"x": 0.25})
    storage.start_trial(number)
    trial = Trial(study, number)
    assert storage_number(trial) == storage_number(study.get_trials()[0]) == number
    assert suggest(trial, {"x": Range(low=0.0, high=1.0)}) == {"x": 0.25}
    trial.report(0.5, 2)
    assert reported_steps(trial) == {2}
    for _ in range(2):
        storage.set_constraints(trial, {"size_mb": -1.0})
    assert study.get_trials()[0].constraints == {"size_mb": -1.0}
    assert study.get_trials()[0].user_attrs == {"place": 3}


def test_no_other_file_uses_what_is_private() -> None:
    private = re.compile(
        r"\._(trial_id|study_id|storage|backend)\b|optuna\.\w*\._|system_attr|set_trial_|scoped_session"
    )
    folder = Path(tuning.__file__).parent
    users = {file.name for file in folder.glob("*.py") if private.search(file.read_text())}
    assert users == {"storage.py"}
