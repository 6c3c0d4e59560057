# The sidecar, installed from the hashed lock. Build from the repository's root:
#   docker build -f deploy/docker/sidecar.Dockerfile -t authix-sidecar .

# with a C compiler; what it builds goes into an image that has none
FROM python:3.13-bookworm AS build
WORKDIR /build
COPY requirements.lock ./
# whatever is installed or built with has its hash in the lock, uv itself too
RUN sed -n '/^uv==/,/# via/p' requirements.lock > uv.lock \
 && python -m venv /tools \
 && /tools/bin/pip install --no-cache-dir --require-hashes --requirement uv.lock
COPY sdk sdk
COPY sidecar sidecar
# the data plane becomes C (docs/adr/0016-the-sidecars-data-plane-is-compiled.md); mypyc has to see the types of all that
# it uses
RUN /tools/bin/uv pip install --no-cache --python /tools --constraint requirements.lock \
      --build-constraint requirements.lock ./sdk --requirements sidecar/pyproject.toml hatchling hatch-mypyc
WORKDIR /build/sidecar
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=1 /tools/bin/python -m hatchling build -t wheel -d /build/wheels
WORKDIR /build
RUN /tools/bin/uv venv --python "$(command -v python)" /opt/authix \
 && /tools/bin/uv pip install --no-cache --python /opt/authix --compile-bytecode \
      --constraint requirements.lock --build-constraint requirements.lock \
      ./sdk "authix-sidecar[otel] @ file://$(ls /build/wheels/*.whl)"

FROM python:3.13-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Authix sidecar" \
      org.opencontainers.image.description="A reverse proxy and forward-auth server that verifies access tokens locally." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# the base image's pip goes too: nothing is installed into a running container
RUN rm -rf /usr/local/lib/python3.13/site-packages/pip* /usr/local/lib/python3.13/ensurepip /usr/local/bin/pip* \
 && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent authix
COPY --from=build /opt/authix /opt/authix
ENV PATH=/opt/authix/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    AUTHIX_HOST=0.0.0.0 AUTHIX_LOG=json
# by number, so that Kubernetes can tell that it is not root; it writes nothing, unless AUTHIX_KEYS_CACHE says where
USER 10001
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["authix-sidecar", "health"]
ENTRYPOINT ["authix-sidecar"]
CMD ["serve"]
