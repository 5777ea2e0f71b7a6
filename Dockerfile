# The project with its environment, for a CPU or, with TORCH=cu130, for NVIDIA GPUs:
#   docker build --build-arg TORCH=cpu -t discriminator-guidance .
#   docker run --rm -v "$PWD/reports:/discriminator-guidance/reports" discriminator-guidance make repro
#   docker run --rm --gpus all --shm-size 8g discriminator-guidance make repro PROFILE=cifar10
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS tools
ARG TORCH=cpu
# pip takes a version with a label, such as 2.13.0+cpu, before the same version without one.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/${TORCH}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

FROM tools
RUN useradd --create-home dguide && mkdir /discriminator-guidance && chown dguide /discriminator-guidance
USER dguide
WORKDIR /discriminator-guidance
COPY --chown=dguide . .
RUN make setup && rm -rf ~/.cache/pip
CMD ["make", "repro"]
