# The reference app's image: the base image, what the program needs, and the program, as a user would write it.
# `make image` builds it, and so does
#
#   docker build --file docker/face-tagger.Dockerfile --tag htcjob-face-tagger .
ARG HTCJOB_IMAGE=htcjob-base
FROM ${HTCJOB_IMAGE}
USER root
COPY docker/lock/face-tagger.txt /opt/face-tagger.txt
# The mounts are for builders that reach a package index with settings of their own, as in base.Dockerfile.
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca PIP_CONFIG_FILE=/run/secrets/pip.conf \
    pip install --require-hashes --only-binary :all: --requirement /opt/face-tagger.txt
USER 1000:1000
COPY reference_app reference_app
# Scripts of the tutorial fetch and put their files themselves, with htcctl: they need the job's token.
ENV HTCJOB_PASS_CREDENTIALS=1
CMD ["python", "-m", "reference_app.tutorial"]
LABEL org.opencontainers.image.title="htcjob-face-tagger" \
      org.opencontainers.image.description="Finds the faces in photos: the reference workload of htcjob"
