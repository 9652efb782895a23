# The server with the demo model, and the client.
#
#   docker build -t espalier .
#   docker run --rm --read-only -p 50051:50051 espalier
#
# With the CUDA backend, on images that hold the CUDA toolkit and, to run, cuBLASLt (as NVIDIA's devel and runtime images do):
#   docker build -t espalier:cuda --build-arg CUDA=ON --build-arg BUILD_IMAGE=... --build-arg RUNTIME_IMAGE=... .
#   docker run --rm --read-only --gpus all -p 50051:50051 espalier:cuda
#
# Behind a proxy with a certificate authority of its own: --secret id=ca_bundle,src=/etc/ssl/certs/ca-certificates.crt
ARG BUILD_IMAGE=docker.io/library/debian:bookworm-slim
ARG RUNTIME_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# Packages and third-party sources first: they are fetched again only when these scripts change.
COPY scripts/install_deps.sh scripts/stage.sh scripts/third_party.sh scripts/
RUN scripts/install_deps.sh
RUN --mount=type=secret,id=ca_bundle \
    if [ -f /run/secrets/ca_bundle ]; then export PIP_CERT=/run/secrets/ca_bundle; fi; \
    scripts/third_party.sh
COPY CMakeLists.txt CMakePresets.json ./
COPY scripts scripts
COPY proto proto
COPY kernels kernels
COPY model model
COPY engine engine
COPY server server
ARG CUDA=OFF
RUN --mount=type=cache,target=/root/.cache/ccache \
    scripts/build.sh release -DESPALIER_TESTS=OFF -DESPALIER_CUDA=${CUDA} espalier-server espalier
RUN mkdir -p /out/bin && \
    for program in espalier-server espalier; do strip -o /out/bin/$program build/release/bin/$program; done && \
    scripts/runtime_packages.sh /out/bin/* >/out/packages

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/packages /tmp/packages
RUN apt-get -qq update && \
    DEBIAN_FRONTEND=noninteractive xargs -a /tmp/packages apt-get -qq -y --no-install-recommends install && \
    rm -rf /tmp/packages /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY LICENSE /usr/share/doc/espalier/LICENSE
COPY model/demo/config.json model/demo/model.safetensors model/demo/tokenizer.model model/demo/tokenizer_config.json \
     /models/demo/
COPY configs/trees /usr/share/espalier/trees
COPY configs/container.json /etc/espalier/server.json
COPY --from=build /out/bin/* /usr/local/bin/
LABEL org.opencontainers.image.title="Espalier" \
      org.opencontainers.image.description="Inference server that decodes trees of text" \
      org.opencontainers.image.licenses="Apache-2.0"
# No name in /etc/passwd: nothing in the image belongs to this user, nothing is written.
USER 65532:65532
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --retries=3 CMD ["espalier", "health"]
ENTRYPOINT ["espalier-server", "--config", "/etc/espalier/server.json"]
