# One image for every command; `make image` builds it. To be able to repeat a build, name the base by
# its digest: --build-arg BASE=python:3.14-slim@sha256:...
ARG BASE=python:3.14-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# Dependencies first: a changed line of source installs none of them anew.
COPY deploy/image/build.lock deploy/image/runtime.lock ./
RUN python3 -m venv /build/tools && /build/tools/bin/pip install --quiet \
    --require-hashes --only-binary :all: --no-deps -r build.lock
RUN python3 -m venv /opt/projector && /opt/projector/bin/pip install --quiet \
    --require-hashes --only-binary :all: --no-deps -r runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY deploy/image/licences.py ./
COPY src src
RUN /build/tools/bin/python -m hatchling build --target wheel --directory dist && \
    /opt/projector/bin/pip install --quiet --no-deps --no-index dist/*.whl && \
    /opt/projector/bin/pip check && /opt/projector/bin/pip uninstall --quiet --yes pip && \
    /build/tools/bin/cyclonedx-py environment /opt/projector/bin/python \
    --pyproject pyproject.toml --output-reproducible --output-file /opt/projector/sbom.cdx.json && \
    python3 licences.py /opt/projector/sbom.cdx.json > /opt/projector/licences.txt

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="allowed-agents projector" \
      org.opencontainers.image.description="Which cluster agents may a CI job token use" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# The folder is for the state of `projector gitlab run`: a new volume gets its owner.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin projector && \
    install -d -o 10001 -g 10001 -m 0700 /var/lib/projector
COPY --from=build /opt/projector /opt/projector
COPY deploy/image/health.py /opt/projector/health.py
ENV PATH=/opt/projector/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/projector
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "/opt/projector/health.py"]
ENTRYPOINT ["projector"]
CMD ["--help"]
