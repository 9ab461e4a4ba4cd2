# CPU and, with NVIDIA's container runtime (docker run --gpus all), GPU: torch's wheel carries its CUDA libraries.
# By digest: docker build --build-arg PYTHON_IMAGE=python@sha256:... (docs/security.md says how to look it up).
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE}

RUN apt-get update \
 && apt-get install --yes --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 counterforge
WORKDIR /home/counterforge/app
COPY --chown=counterforge:counterforge . .
RUN chown counterforge:counterforge .
USER counterforge

RUN make setup \
 && .venv/bin/python -m pip install --quiet --no-cache-dir -c constraints.txt -e '.[cluster]'
ENV PATH="/home/counterforge/app/.venv/bin:$PATH" MLFLOW_DISABLE_TELEMETRY=true

EXPOSE 5000
VOLUME ["/home/counterforge/app/mlruns", "/home/counterforge/app/runs"]
# The interface over mlruns/ answers /health once it serves.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
# Outside of this container others can open it, so that it asks for an account and refuses to start without one:
#   docker run -e MLFLOW_AUTH_ADMIN_PASSWORD -p 127.0.0.1:5000:5000 counterforge
CMD ["counterforge", "ui", "--host", "0.0.0.0", "--port", "5000"]
