# fedrounds coordinator. Build from the top of the source tree:
#   docker build -f docker/server.Dockerfile -t fedrounds/server:0.1.0 .
# Rootless, versions held by constraints.txt. PIP_FLAGS may name an index with CPU builds of torch.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG PIP_FLAGS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/fedrounds/venv
ENV PATH=/opt/fedrounds/venv/bin:$PATH
WORKDIR /src
# torch first and alone: the layer stays when only our code changes
COPY constraints.txt ./
RUN pip install -q ${PIP_FLAGS} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY common common
COPY sites sites
COPY client client
COPY server server
COPY studies studies
RUN pip install -q ${PIP_FLAGS} -c constraints.txt "."

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="fedrounds coordinator" \
      org.opencontainers.image.description="Runs the rounds of a federation; holds no case and no image." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The fedrounds authors"
RUN useradd --uid 10001 --create-home --home-dir /home/fedrounds --shell /usr/sbin/nologin fedrounds \
    && install -d -o 10001 -g 10001 /var/lib/fedrounds
COPY --from=build /opt/fedrounds/venv /opt/fedrounds/venv
COPY docker/health.py /opt/fedrounds/health.py
ENV PATH=/opt/fedrounds/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OMP_WAIT_POLICY=PASSIVE \
    FLWR_HOME=/var/lib/fedrounds/flwr \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    DO_NOT_TRACK=1 \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /var/lib/fedrounds
EXPOSE 9092
CMD ["flower-superlink", "--help"]
