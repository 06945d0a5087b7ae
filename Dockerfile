# spinevl for GPUs: docker build -t spinevl . && docker run --gpus all -v "$PWD:/study" spinevl run
# The CUDA compiler is there for DeepSpeed's offloading; PyTorch brings its own libraries.
ARG CUDA=13.0.1
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# docker build --build-arg EXTRAS=wandb,nifti,deepspeed,submitit -t spinevl .
ARG EXTRAS=wandb,nifti
WORKDIR /opt/spinevl
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

WORKDIR /study
ENTRYPOINT ["spinevl"]
CMD ["--help"]
