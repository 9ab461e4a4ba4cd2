#!/usr/bin/env bash
# An MLflow server with accounts over PostgreSQL; every secret comes from the environment, and stands in no list of
# processes.
#   OWNER_PASSWORD               of the database role counterforge
#   MLFLOW_AUTH_ADMIN_PASSWORD   of MLflow's first account, admin (12 characters or more)
#   MLFLOW_FLASK_SERVER_SECRET_KEY
# Optional: POSTGRES_HOST (postgres), POSTGRES_PORT (5432), ARTIFACTS (artifacts), HOST (0.0.0.0), PORT (5000)
set -euo pipefail
: "${OWNER_PASSWORD:?}" "${MLFLOW_AUTH_ADMIN_PASSWORD:?}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?}"
database="postgresql+psycopg://counterforge:${OWNER_PASSWORD}@${POSTGRES_HOST:-postgres}:${POSTGRES_PORT:-5432}"
umask 077
MLFLOW_AUTH_CONFIG_PATH="$(mktemp)"
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = READ
database_uri = ${database}/accounts
END
export MLFLOW_AUTH_CONFIG_PATH MLFLOW_AUTH_ADMIN_USERNAME=admin MLFLOW_BACKEND_STORE_URI="${database}/mlflow"
unset OWNER_PASSWORD
exec mlflow server --app-name basic-auth --workers 2 --host "${HOST:-0.0.0.0}" --port "${PORT:-5000}" \
  --artifacts-destination "${ARTIFACTS:-artifacts}"
