# The base image: htcjob as the entrypoint of a job's container. `make image` builds it, and so does
#
#   docker build --file docker/base.Dockerfile --tag htcjob-base .
#
# Arguments:
#   BASE_IMAGE         what it is built on: any python:*-slim, or a Debian with or without Python (3.11 or newer);
#                      name it by digest (python:3.12-slim@sha256:…) and the same commit gives the same image
#   STORES             all: the fast lane and the clouds' own SDKs; fast: the fast lane; none: directories only
#   VERSION, REVISION  for the labels
#
# The secrets `pip.conf` and `ca` are this builder's settings for pip and its certificates, where it needs some. They
# are mounted while pip works and are in no layer.
ARG BASE_IMAGE=python:3.12-slim

# A Debian without Python gets its own; nothing is done for a python:*-slim.
FROM ${BASE_IMAGE} AS bottom
RUN command -v python3 > /dev/null || { \
      apt-get update && \
      apt-get install --yes --no-install-recommends ca-certificates python3 python-is-python3 && \
      rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log; \
    }

# Of this stage only /opt/htcjob is shipped. All that it installs is a wheel with its hash in docker/lock.
FROM bottom AS build
RUN command -v pip > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends python3-pip; }
WORKDIR /src
COPY docker/lock docker/lock
ARG STORES=all
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/pip \
    export PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all: && \
    python3 -m venv --without-pip /opt/htcjob && \
    python3 -m pip --python /opt/htcjob/bin/python install --no-compile --requirement "docker/lock/$STORES.txt" && \
    python3 -m pip install --no-compile --target /build --requirement docker/lock/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY htcjob htcjob
RUN PYTHONPATH=/build python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir /dist . && \
    python3 -m pip --python /opt/htcjob/bin/python install --no-compile --no-deps --no-index /dist/*.whl

# What is left out. Of what stays, in megabytes: OpenSSL for tokens (cryptography) 15, the fast lane (obstore) 16, the
# SDKs of S3, Google and Azure 4, 6 and 4, everything else 6; and 17 of bytecode: no job may write here, so each start
# would compile anew, and `htcjob run -- true` take 120 ms of CPU instead of 70.
RUN cd /opt/htcjob/lib/python3*/site-packages && \
    # 26 MB: botocore knows every service of AWS. S3 is used, the others are ways to sign in to it.
    if [ -d botocore ]; then find botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -r {} +; fi && \
    # 1 MB: what compiles C for cffi; cryptography is compiled.
    rm -rf cffi pycparser && \
    find . -name tests -type d -exec rm -r {} + && find . -name '*.c' -delete && \
    cd /opt/htcjob/bin && find . -type f ! -name htcjob ! -name htcctl -delete && \
    # Neither PYTHONPATH nor anything else that is set for the user's Python leads htcjob's to other modules.
    sed -i '1s/$/ -I/' htcjob htcctl && \
    # By content, not by date: the same sources give the same bytes.
    ./python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/htcjob/lib

FROM bottom
# An environment of htcjob's own: whatever a user installs for `python3`, neither disturbs the other.
COPY --from=build /opt/htcjob /opt/htcjob
# /work is where the command runs: any user may write, so that a script can leave files there.
RUN ln -s /opt/htcjob/bin/htcjob /opt/htcjob/bin/htcctl /usr/local/bin/ && \
    echo 'htcjob:x:1000:1000::/tmp:/bin/sh' >> /etc/passwd && \
    echo 'htcjob:x:1000:' >> /etc/group && \
    mkdir --mode=1777 /work
WORKDIR /work
# /tmp is writable for every user, also for one that no passwd file knows, and is where a read-only root gets its tmpfs.
# Python imports nothing from there, and pip keeps nothing there. Functions of --call run in the user's Python.
ENV HOME=/tmp \
    PYTHONNOUSERSITE=1 \
    PIP_NO_CACHE_DIR=1 \
    HTCJOB_PYTHON=python3
USER 1000:1000
# JSON form: htcjob itself is PID 1 and gets the signals. A platform's `commands` become the command.
ENTRYPOINT ["htcjob", "run", "--"]

ARG BASE_IMAGE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="htcjob" \
      org.opencontainers.image.description="Job runtime for high-throughput computing, as a base image" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
