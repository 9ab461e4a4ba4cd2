"""The account `worker` of an MLflow server with accounts, which may write to the runs and models of one project.

It reads everything else, and changes nothing of it: no other experiment, no version of the registry, no account.
Running it again sets the password anew.

Environment: `MLFLOW_TRACKING_URI`, `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD` of an administrator,
`WORKER_PASSWORD` (12 characters or more) and `PROJECT`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

from tracking.store import open_store

WORKER = "worker"


def main() -> None:
    """Make the account, and the project's experiment where there is none."""
    store = open_store()
    experiment = store.experiment(os.environ["PROJECT"])
    client = get_app_client("basic-auth", store.tracking_uri)
    password = os.environ["WORKER_PASSWORD"]
    if not _made(lambda: client.create_user(WORKER, password)):
        client.update_user_password(WORKER, password)
    # Not EDIT: the models of trials that are not among the best are deleted by the workers.
    _made(lambda: client.grant_user_permission(WORKER, "experiment", experiment, "MANAGE"))
    print(f"the account {WORKER} may write to the experiment {os.environ['PROJECT']} ({experiment})")


def _made(make: Callable[[], object]) -> bool:
    """Whether it was not there before."""
    try:
        make()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    return True


if __name__ == "__main__":
    main()
