-- Beside `studies` (Optuna), which the server makes by itself: runs and accounts of MLflow.
CREATE DATABASE mlflow;
CREATE DATABASE accounts;
