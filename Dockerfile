# The program with locked dependencies, for CPUs or for CUDA 13; see harness/cluster/README.md.
#   docker build --tag harness .
#   docker build --tag harness:cuda --build-arg DEVICE=cuda .
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
# hadolint ignore=DL3008 # Debian keeps only the newest security update of a release
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/harness
ENV PATH=/opt/harness/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The program as a wheel, and the names of its dependencies, by device.
FROM python AS program
WORKDIR /src
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && mkdir /requirements \
    && python -c 'import tomllib; \
        project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        needs, gpu = project["dependencies"], project["optional-dependencies"]["gpu"]; \
        print(*needs, sep="\n", file=open("/requirements/cpu.txt", "w")); \
        print(*needs, *gpu, sep="\n", file=open("/requirements/cuda.txt", "w"))'

FROM python
ARG DEVICE=cpu
ARG TORCH_CPU=https://download.pytorch.org/whl/cpu
# Dependencies change less often than the program, and torch least often: a layer each.
COPY .ci/constraints.txt /opt/constraints.txt
RUN case "$DEVICE" in \
        cpu) pip install --constraint /opt/constraints.txt torch --extra-index-url "$TORCH_CPU" ;; \
        cuda) pip install --constraint /opt/constraints.txt torch ;; \
        *) echo "DEVICE is '$DEVICE'; give cpu or cuda." >&2 && exit 2 ;; \
    esac
COPY --from=program /requirements /opt/requirements
RUN pip install --constraint /opt/constraints.txt --requirement "/opt/requirements/$DEVICE.txt"
COPY --from=program /wheels /opt/program
RUN pip install --no-deps /opt/program/*.whl

# Any user may run it (docker run --user), so the home of the image's own is writable to all.
RUN useradd --create-home --uid 1000 harness && chmod 0777 /home/harness && mkdir --mode 0777 /work
USER 1000
ENV HOME=/home/harness USER=harness RAY_USAGE_STATS_ENABLED=0 NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG COMMIT=
ENV HARNESS_COMMIT=${COMMIT}
WORKDIR /work
ENTRYPOINT ["harness"]
