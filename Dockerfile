# An image of the plugin for Vault's containerized plugins: Vault starts a container instead of a program.
#
#   docker build --build-arg VERSION=v0.1.0 -t vault-plugin-secrets-pipedream:0.1.0 .
#
# docs/releasing.md says how to register it with Vault. It was built with buildah 1.28 on a hand-made base image (Debian 12
# and Go 1.26.8 instead of the golang image), and run by Vault 1.21.1 with podman 4.3 and runc. It was not tried with a
# Docker engine or with gVisor's runsc, which is Vault's default runtime.

# The build runs on the machine's own platform. Go cross-compiles for the platform of the image.
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=v0.1.0
WORKDIR /src
COPY . .
# This makes the same bits as "make build" on any machine.
RUN GOOS="$TARGETOS" GOARCH="$TARGETARCH" make build VERSION="$VERSION" OUT=/vault-plugin-secrets-pipedream

# Besides the plugin, the image contains only certificate authorities, which are needed for Pipedream's API.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /vault-plugin-secrets-pipedream /vault-plugin-secrets-pipedream
USER 65532:65532
ENTRYPOINT ["/vault-plugin-secrets-pipedream"]
