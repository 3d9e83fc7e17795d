# The base image: htcjob as the entrypoint of a job's container. Build it with `make image`, or anywhere with
#
#   docker build --file docker/base.Dockerfile --tag htcjob-base .
#
# Arguments
#   BASE_IMAGE   what it is built on: any python:*-slim, or a Debian with or without Python (3.11 or newer)
#   STORES       all: the fast lane and the clouds' own SDKs; fast: the fast lane; none: directories only
#   VERSION, REVISION   for the labels
#
# The secrets `pip.conf` and `ca` are the builder's settings of pip and its certificates, where it needs some. They
# are mounted while pip works and are in no layer.
ARG BASE_IMAGE=python:3.12-slim

# A bottom that has no Python gets Debian's; for a python:*-slim nothing is done here.
FROM ${BASE_IMAGE} AS bottom
RUN command -v python3 > /dev/null || { \
      apt-get update && \
      apt-get install --yes --no-install-recommends ca-certificates python3 && \
      rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log; \
    }

# Nothing of this stage is shipped but /opt/htcjob. All that is installed is a wheel with a hash from docker/lock.
FROM bottom AS build
RUN command -v pip > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends python3-pip; }
WORKDIR /src
COPY docker/lock docker/lock
ARG STORES=all
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/pip \
    export PIP_CONFIG_FILE=/run/secrets/pip.conf && \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi && \
    export PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all: PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 && \
    python3 -m venv --without-pip /opt/htcjob && \
    python3 -m pip --python /opt/htcjob/bin/python install --requirement docker/lock/$STORES.txt && \
    python3 -m pip install --target /build --requirement docker/lock/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY htcjob htcjob
COPY reference_app reference_app
RUN PYTHONPATH=/build python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir /dist . && \
    python3 -m pip --python /opt/htcjob/bin/python install --no-deps --no-compile --no-index /dist/*.whl

FROM bottom
COPY --from=build /opt/htcjob /opt/htcjob
RUN ln -s /opt/htcjob/bin/htcjob /opt/htcjob/bin/htcctl /usr/local/bin/ && \
    echo 'htcjob:x:1000:1000::/tmp:/bin/sh' >> /etc/passwd && \
    echo 'htcjob:x:1000:' >> /etc/group
USER 1000:1000
ENV HOME=/tmp PYTHONNOUSERSITE=1 HTCJOB_PYTHON=python3
ENTRYPOINT ["htcjob", "run", "--"]
