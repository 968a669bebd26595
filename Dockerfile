# The plugin as an image for Vault's containerized plugins: Vault starts a container in place of a program.
#
#   docker build --build-arg VERSION=v0.1.0 -t vault-plugin-secrets-pipedream:0.1.0 .
#
# docs/releasing.md says how Vault is told of it. It was built with buildah 1.28, on a base made by hand of Debian 12 and
# Go 1.26.8 in place of the golang image, and run by Vault 1.21.1 through podman 4.3 and runc. It was not tried with a
# Docker engine, nor with gVisor's runsc, which is what Vault asks for unless told otherwise.

# On the machine's own processor, whatever the image is for: Go builds for any.
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=v0.1.0
WORKDIR /src
COPY . .
# The same bits as make build makes anywhere else.
RUN GOOS="$TARGETOS" GOARCH="$TARGETARCH" make build VERSION="$VERSION" OUT=/vault-plugin-secrets-pipedream

# Nothing else is in it but the certificate authorities that sign for Pipedream's API.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /vault-plugin-secrets-pipedream /vault-plugin-secrets-pipedream
USER 65532:65532
ENTRYPOINT ["/vault-plugin-secrets-pipedream"]
