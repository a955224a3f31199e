# One image for every process of the worker's side: migrate, worker, exporter, dashboard.
# It holds no settings and no secrets; they come from the environment when a container starts.

FROM python:3.13.9-slim-bookworm AS build
WORKDIR /src
COPY . .
# What is installed is named by version and digest (locks/), and nothing else is fetched.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement locks/build.txt \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist .
RUN python -m venv /opt/riskstream \
    && /opt/riskstream/bin/pip install --no-cache-dir --require-hashes --requirement locks/worker.txt \
    && /opt/riskstream/bin/pip install --no-cache-dir --no-deps --no-index /dist/riskstream-*.whl

FROM python:3.13.9-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin riskstream
COPY --from=build /opt/riskstream /opt/riskstream
ENV PATH=/opt/riskstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
# Exec form: the command is process 1 and gets SIGTERM itself, so that a worker finishes the batch in hand.
ENTRYPOINT ["riskstream"]
CMD ["worker"]
