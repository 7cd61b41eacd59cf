# syntax=docker/dockerfile:1
# Two images from the same sources, with the data path compiled:
#   docker build --target router -t accede/accede-router .       routers: without numpy and scipy
#   docker build --target controller -t accede/accede .          everything (the default)
# PYTHON is the base of every stage, so that what is compiled in one runs in the other.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python -m venv /build && /build/bin/pip install --quiet -c scripts/requirements-dev.txt mypy setuptools
RUN ACCEDE_COMPILE=1 /build/bin/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir /wheels .

FROM build AS build-router
RUN python -m venv /opt/accede && /opt/accede/bin/pip install --quiet -r scripts/requirements-router.txt
RUN /opt/accede/bin/pip install --quiet --no-deps /wheels/*.whl && python -m compileall -q /opt/accede

FROM build AS build-controller
RUN python -m venv /opt/accede && /opt/accede/bin/pip install --quiet -r scripts/requirements-controller.txt
RUN /opt/accede/bin/pip install --quiet --no-deps /wheels/*.whl && python -m compileall -q /opt/accede

FROM ${PYTHON} AS base
RUN groupadd --gid 10001 accede \
    && useradd --uid 10001 --gid accede --home-dir /var/lib/accede --shell /usr/sbin/nologin accede \
    && install -d -o accede -g accede -m 0750 /var/lib/accede
ENV PATH=/opt/accede/bin:$PATH PYTHONUNBUFFERED=1 ACCEDE_DATA=/var/lib/accede
WORKDIR /var/lib/accede
USER 10001:10001
ENTRYPOINT ["accede"]

FROM base AS router
COPY --from=build-router /opt/accede /opt/accede
EXPOSE 8080 8081
CMD ["router", "--host", "0.0.0.0", "--probe-host", "0.0.0.0", "--probe-port", "8081"]

FROM base AS controller
COPY --from=build-controller /opt/accede /opt/accede
EXPOSE 9090
CMD ["controller"]
