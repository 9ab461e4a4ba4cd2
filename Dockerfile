# CPU and, with NVIDIA's container runtime (docker run --gpus all), GPU: torch's wheel carries its CUDA libraries.
FROM python:3.11-slim

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
CMD ["counterforge", "ui", "--host", "0.0.0.0", "--port", "5000"]
