FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
    --prefix=/install --constraint requirements.lock ".[gitlab]"

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin projector
COPY --from=build /install /usr/local
ENV PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
ENTRYPOINT ["projector"]
CMD ["--help"]
