# syntax=docker/dockerfile:1
# The one image, for the operator and every stage: the binary, the libraries it is linked to, CA certificates. No shell, no package
# manager, user 65532; runs with a read-only root file system. `scripts/image` makes the same without Docker.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist -p headwater-cli \
 && mkdir -p /image/usr/local/bin /image/etc/ssl/certs /image/tmp \
 && cp target/dist/headwater /image/usr/local/bin/ \
 && ldd target/dist/headwater | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} /image \
 && cp -L /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && echo 'headwater:x:65532:65532::/:/nonexistent' > /image/etc/passwd \
 && chmod 1777 /image/tmp

FROM scratch
COPY --from=build /image /
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/headwater"]
