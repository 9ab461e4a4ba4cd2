"""MLflow: where runs live, runs, models and the registry."""
