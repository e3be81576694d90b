# syntax=docker/dockerfile:1
# Two images from one file. `service` (the last stage, so the default) is what runs on ECS: all six services, and the command
# picks one: python -m services.reconciler. `localcloud` adds the embedded AWS, the command line and the example, for
# docker-compose.yml. Both run as uid 65532, need no capability, and write nowhere but in /tmp and the local cloud's volume.
#
# For deployments name the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS dependencies
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON=/usr/local/bin/python3.11 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
COPY pyproject.toml uv.lock ./
# uv.lock names every distribution with its hash; uv installs nothing else.
RUN uv sync --frozen --no-dev

FROM dependencies AS localcloud-dependencies
RUN uv sync --frozen --no-dev --extra localcloud --extra ops

FROM ${PYTHON_IMAGE} AS base
RUN groupadd --gid 65532 autoprovisioner \
    && useradd --uid 65532 --gid 65532 --no-create-home --shell /usr/sbin/nologin autoprovisioner
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
STOPSIGNAL SIGTERM

FROM base AS localcloud
COPY --from=localcloud-dependencies /app/.venv .venv
COPY agent agent
COPY deploy deploy
COPY examples examples
COPY localcloud localcloud
COPY ops ops
COPY services services
COPY shared shared
RUN python -m compileall -q agent deploy examples localcloud ops services shared \
    && install --directory --owner 65532 --group 65532 /var/lib/localcloud
USER 65532:65532

FROM base AS service
COPY --from=dependencies /app/.venv .venv
COPY agent agent
COPY services services
COPY shared shared
RUN python -m compileall -q agent services shared
USER 65532:65532
