#!/usr/bin/env bash
# An MLflow server with accounts over PostgreSQL; every secret comes from the environment.
#   POSTGRES_PASSWORD            of the database user counterforge
#   MLFLOW_AUTH_ADMIN_PASSWORD   of MLflow's first account, admin
#   MLFLOW_FLASK_SERVER_SECRET_KEY
# Optional: POSTGRES_HOST (postgres), POSTGRES_PORT (5432), ARTIFACTS (artifacts), HOST (0.0.0.0), PORT (5000)
set -euo pipefail
: "${POSTGRES_PASSWORD:?}" "${MLFLOW_AUTH_ADMIN_PASSWORD:?}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?}"
database="postgresql+psycopg://counterforge:${POSTGRES_PASSWORD}@${POSTGRES_HOST:-postgres}:${POSTGRES_PORT:-5432}"
umask 077
MLFLOW_AUTH_CONFIG_PATH="$(mktemp)"
export MLFLOW_AUTH_CONFIG_PATH
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = READ
database_uri = ${database}/accounts
admin_username = admin
admin_password = ${MLFLOW_AUTH_ADMIN_PASSWORD}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
exec mlflow server --app-name basic-auth --workers 2 --host "${HOST:-0.0.0.0}" --port "${PORT:-5000}" \
  --backend-store-uri "${database}/mlflow" --artifacts-destination "${ARTIFACTS:-artifacts}"
