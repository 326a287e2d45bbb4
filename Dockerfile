# CPU:  docker build -t mmrec .
# GPU:  docker build -t mmrec --build-arg BASE=<an image with CUDA and Python 3.11 or newer> .
# Run:  docker run --rm -v "$PWD/outputs:/app/outputs" mmrec run model=gated_lightgcn data=planted
# Data: add -v "$MMREC_DATA:/data:ro"
ARG BASE=python:3.11-slim
FROM ${BASE}

# An index with CPU builds of torch saves gigabytes: --build-arg TORCH_INDEX=<address>
ARG TORCH_INDEX=""
WORKDIR /opt/mmrec
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mmrec mmrec
COPY conf conf
COPY hydra_plugins hydra_plugins
RUN PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" python -m pip install --no-cache-dir -c constraints.txt .

RUN useradd --create-home user && mkdir -p /app /data && chown user /app
USER user
WORKDIR /app
ENV MMREC_DATA=/data
ENTRYPOINT ["mmrec"]
CMD ["run", "model=gated_lightgcn", "data=planted", "run_dir=outputs/first", "optimizer.lr=0.01"]
