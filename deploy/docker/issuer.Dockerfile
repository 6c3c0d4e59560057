# The issuer, installed from the hashed lock. Build from the repository's root:
#   docker build -f deploy/docker/issuer.Dockerfile -t authix-issuer .

# with a C compiler; what it builds goes into an image that has none
FROM python:3.13-bookworm AS build
WORKDIR /build
COPY requirements.lock deploy/docker/argon2.lock ./
# whatever is installed or built with has its hash in a lock, uv itself too
RUN sed -n '/^uv==/,/# via/p' requirements.lock > uv.lock \
 && python -m venv /tools \
 && /tools/bin/pip install --no-cache-dir --require-hashes --requirement uv.lock \
 && /tools/bin/uv pip install --no-cache --python /tools --require-hashes --requirement argon2.lock
# Argon2 by AVX2 (x86-64-v3) takes half the time, by AVX-512 (-v4) a quarter less still. The lock's own wheel, which runs
# anywhere, stays the one that is installed; these copies are preferred where the entry point finds a CPU that has what
# they need. Other architectures have none, so the folders are empty.
RUN mkdir /opt/argon2-x86-64-v3 /opt/argon2-x86-64-v4 \
 && if [ "$(uname -m)" = x86_64 ]; then \
      for level in x86-64-v3 x86-64-v4; do \
        CFLAGS="-O3 -march=$level" /tools/bin/uv pip install --no-cache --python /tools --target "/opt/argon2-$level" \
          --no-deps --no-build-isolation --no-binary argon2-cffi-bindings \
          --constraint requirements.lock argon2-cffi-bindings || exit 1; \
      done; \
    fi
COPY sdk sdk
COPY issuer issuer
RUN /tools/bin/uv venv --python "$(command -v python)" /opt/authix \
 && /tools/bin/uv pip install --no-cache --python /opt/authix --compile-bytecode \
      --constraint requirements.lock --build-constraint requirements.lock ./sdk "./issuer[otel]"

FROM python:3.13-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Authix issuer" \
      org.opencontainers.image.description="Registers users, logs them in, hands out tokens, and never loses a logout." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# the base image's pip goes too: nothing is installed into a running container
RUN rm -rf /usr/local/lib/python3.13/site-packages/pip* /usr/local/lib/python3.13/ensurepip /usr/local/bin/pip* \
 && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent authix \
 && install -d -m 0700 -o authix /var/lib/authix
COPY --from=build /opt/argon2-x86-64-v3 /opt/argon2-x86-64-v3
COPY --from=build /opt/argon2-x86-64-v4 /opt/argon2-x86-64-v4
COPY --from=build /opt/authix /opt/authix
COPY --chmod=0555 deploy/docker/issuer-entrypoint.sh /opt/authix/bin/issuer-entrypoint
ENV PATH=/opt/authix/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    AUTHIX_HOST=0.0.0.0 AUTHIX_LOG=json AUTHIX_DATA_DIR=/var/lib/authix
# by number, so that Kubernetes can tell that it is not root
USER 10001
# the embedded stores, the only folder that is written to, and only where no MongoDB and Redis are named
VOLUME /var/lib/authix
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["authix-issuer", "health"]
ENTRYPOINT ["issuer-entrypoint"]
CMD ["serve"]
