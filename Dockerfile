# One image for CPU and CUDA: `make docker-build`, `make docker-run ARGS="python train.py"`.
# The torch wheel brings CUDA's libraries and the host has the driver, so a slim Python will do.
FROM python:3.11-slim

# make sets up, g++ serves COMPILE, git tells a run its commit
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app

# Before the code: a change of code installs nothing. SETUP=env-dev adds tests and other trainers.
# The downloads stay in the builder's cache; bytecode is written now, for the user may not later.
ARG SETUP=env
COPY Makefile pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/cache \
    XDG_CACHE_HOME=/cache UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 make ${SETUP} CONDA=

# mounted folders take their places; without them whoever runs the image may write here
RUN mkdir data logs weights && chmod 1777 data logs weights

COPY . .

# `docker run --user` may give an id without a name or a home; safe.directory: git reads .git of
# others; NVIDIA_*: what a GPU's runtime hands in
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/tmp \
    USER=user \
    PYTHONUNBUFFERED=1 \
    GIT_CONFIG_COUNT=1 \
    GIT_CONFIG_KEY_0=safe.directory \
    GIT_CONFIG_VALUE_0=/app \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

VOLUME ["/app/data", "/app/logs", "/app/weights"]
USER 1000:1000
CMD ["python", "train.py", "--help"]
