# fedrounds coordinator. Build from the top of the source tree:
#   docker build -f docker/server.Dockerfile -t fedrounds/server:0.1.0 .
#
# Without root; versions held by constraints.txt; nothing is fetched once it runs. BASE may name the same image
# by its digest, or in a registry of your own; PIP_FLAGS an index with CPU builds of torch.

ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
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

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="fedrounds coordinator" \
      org.opencontainers.image.description="Runs the rounds of a federation; holds no case and no image." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The fedrounds authors" \
      org.opencontainers.image.base.name="python:3.11.14-slim-bookworm"
RUN useradd --uid 10001 --create-home --home-dir /home/fedrounds --shell /usr/sbin/nologin fedrounds \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/fedrounds
COPY --from=build /opt/fedrounds/venv /opt/fedrounds/venv
COPY docker/health.py /opt/fedrounds/health.py
# all that is written goes to /var/lib/fedrounds and /tmp: the rest may be read-only
ENV PATH=/opt/fedrounds/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    OMP_WAIT_POLICY=PASSIVE \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    DO_NOT_TRACK=1 \
    FEDROUNDS_COORDINATOR=/var/lib/fedrounds/coordinator \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /var/lib/fedrounds
EXPOSE 8443
CMD ["fedrounds", "coordinator", "start", "-h"]
