# gym-ray's images, one for nodes with NVIDIA GPUs and a smaller one for the others:
#
#   docker build --target gpu -t gym-ray:0.1.0-gpu .
#   docker build --target cpu -t gym-ray:0.1.0-cpu .
#
# For x86-64. Both start from the same base, hold packages in one layer and gym-ray in another, so
# a change of gym-ray sends megabytes to the nodes and not gigabytes. Packages have the versions and
# hashes of scripts/lock-*.txt. vLLM's bring CUDA's libraries; of the node they need the driver and
# NVIDIA's container runtime.
# BASE: another image with Python 3.11 to 3.13, its headers and pip, such as a registry's own.
ARG BASE=python:3.11.14-slim-bookworm
FROM $BASE AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Compilers: Triton and vLLM's CPU build make kernels at run time. libnuma1: vLLM's CPU build loads it.
# wget: KubeRay's probes.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends bubblewrap g++ gcc libc6-dev libnuma1 wget \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY scripts/install.sh scripts/lock-uv.txt scripts/lock-build.txt scripts/
RUN scripts/install.sh uv python
RUN python -m venv /opt/venv \
 && useradd --create-home --uid 1000 --user-group gym-ray \
 && mkdir /app && chown gym-ray /app \
 && echo "export PATH=/opt/venv/bin:\$PATH" > /etc/profile.d/gym-ray.sh
# RAY_SERVE_… and what follows: gym_ray/serving/__init__.py. Serve reads them where Ray starts.
# hadolint ignore=DL3064
ENV PATH=/opt/venv/bin:$PATH \
    VIRTUAL_ENV=/opt/venv \
    UV_NO_CACHE=1 \
    UV_COMPILE_BYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_SERVE_ENABLE_DIRECT_INGRESS=0 \
    RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S=300 \
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=gym_ray.serving.bounded_http.bound_proxy \
    RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=2147483647 \
    RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TOKENIZERS_PARALLELISM=false
COPY pyproject.toml ./

FROM base AS packages-cpu
COPY scripts/lock-cpu.txt scripts/lock-torch.txt scripts/overrides-cpu.txt scripts/
RUN scripts/install.sh packages /opt/venv/bin/python cpu cpu reasoning-gym mcp verifiers

FROM base AS packages-gpu
COPY scripts/lock-vllm.txt scripts/
RUN scripts/install.sh packages /opt/venv/bin/python vllm vllm bundled reasoning-gym mcp verifiers
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM packages-cpu AS cpu
COPY README.md LICENSE ./
COPY environments environments
COPY gym_ray gym_ray
RUN scripts/install.sh gym-ray /opt/venv/bin/python
WORKDIR /app
COPY deployments deployments
COPY environments environments
USER 1000
# A node is well when Ray answers: of `ray start`, and of a command that started Ray for itself.
HEALTHCHECK --interval=30s --timeout=20s --start-period=180s --retries=3 CMD ["ray", "health-check"]
CMD ["gym-ray", "--help"]

FROM packages-gpu AS gpu
COPY README.md LICENSE ./
COPY environments environments
COPY gym_ray gym_ray
RUN scripts/install.sh gym-ray /opt/venv/bin/python
WORKDIR /app
COPY deployments deployments
COPY environments environments
USER 1000
HEALTHCHECK --interval=30s --timeout=20s --start-period=180s --retries=3 CMD ["ray", "health-check"]
CMD ["gym-ray", "--help"]
