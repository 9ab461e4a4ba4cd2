-- Databases and roles, made by the superuser when the server starts for the first time. The passwords come from the
-- environment of the container; they stand in no file and in no list of processes.
\getenv owner_password OWNER_PASSWORD
\getenv worker_password WORKER_PASSWORD
CREATE ROLE counterforge LOGIN PASSWORD :'owner_password';
CREATE ROLE worker LOGIN PASSWORD :'worker_password';
CREATE DATABASE studies OWNER counterforge;   -- Optuna
CREATE DATABASE mlflow OWNER counterforge;    -- runs and models
CREATE DATABASE accounts OWNER counterforge;  -- of the MLflow server
REVOKE CONNECT ON DATABASE studies, mlflow, accounts, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE studies TO worker;
-- A worker takes trials and writes their values. The tables themselves belong to the role that launches studies, which
-- makes them at its first launch; nothing is deleted.
\connect studies
ALTER DEFAULT PRIVILEGES FOR ROLE counterforge IN SCHEMA public GRANT SELECT, INSERT, UPDATE ON TABLES TO worker;
ALTER DEFAULT PRIVILEGES FOR ROLE counterforge IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO worker;
