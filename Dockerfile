# gnomon's server as an image; build it with: docker build -t gnomon .
# BASE is any image with Python 3.11 to 3.14 as `python3`, pip and venv; both stages need the same one.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
RUN python3 -m venv /opt/gnomon
ENV PATH=/opt/gnomon/bin:${PATH} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
# Before the sources, so that a change of code does not install the libraries anew.
COPY locks/server.lock locks/
RUN pip install --require-hashes -r locks/server.lock
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY client client
COPY converters converters
COPY server server
# Without isolation the build uses the hatchling that the lock has pinned, and fetches nothing.
RUN pip install --no-deps --no-build-isolation . \
  && pip check

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gnomon" \
      org.opencontainers.image.description="gRPC model serving with shadow deployments" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The numbers are fixed, so that a volume's owner can be set without looking into the image.
RUN groupadd --gid 10001 gnomon \
  && useradd --uid 10001 --gid gnomon --no-create-home --home-dir /state --shell /usr/sbin/nologin gnomon \
  && install --directory /models \
  && install --directory --owner=gnomon --group=gnomon /state
COPY --from=build /opt/gnomon /opt/gnomon
# onnxruntime's own telemetry stays off. HTTP only reads, so it may leave the container (pages, probes, scrapes);
# the control API changes things and asks for no password, so it stays inside until GNOMON_CONTROL says otherwise.
ENV PATH=/opt/gnomon/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    GNOMON_GRPC=0.0.0.0:8001 \
    GNOMON_HTTP=0.0.0.0:8002 \
    GNOMON_CONTROL=127.0.0.1:8003
WORKDIR /state
USER 10001:10001
VOLUME ["/state"]
EXPOSE 8001 8002 8003
# Asks where GNOMON_HTTP says, so change the address there and not by a flag.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f\"http://{os.environ['GNOMON_HTTP']}/readyz\", timeout=4)"]
ENTRYPOINT ["gnomon"]
CMD ["serve", "/models", "--state", "/state"]
