# The stdio server, for `docker run -i`; over HTTP as compose.yaml runs it. Each package is pinned by its hash.

FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements-build.lock requirements-runtime.lock ./
RUN python -m venv /opt/mcp-server-milvus \
    && /opt/mcp-server-milvus/bin/python -m pip install --require-hashes --no-deps --requirement requirements-runtime.lock \
    && python -m pip install --require-hashes --no-deps --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY mcp_server_milvus mcp_server_milvus
RUN python -m hatchling build --target wheel --directory dist \
    && /opt/mcp-server-milvus/bin/python -m pip install --no-deps dist/*.whl

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="mcp-server-milvus" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home milvus && install --directory --owner milvus --group milvus --mode 0700 /data
COPY --from=build /opt/mcp-server-milvus /opt/mcp-server-milvus
ENV PATH=/opt/mcp-server-milvus/bin:$PATH MILVUS_MCP_DATA_DIR=/data
USER 10001
WORKDIR /home/milvus
VOLUME /data
# Asks over HTTP if the environment says so (a flag is not seen here); over stdio there is no port to ask.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-c", "import os, urllib.request; os.environ.get('MILVUS_MCP_TRANSPORT', 'stdio') == 'stdio' or urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('MILVUS_MCP_PORT', '8000') + '/health/live', timeout=4)"]
ENTRYPOINT ["mcp-server-milvus"]
