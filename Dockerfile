# A small image with the gateway and php-cgi:
#
#   docker build -t gateway .
#   docker run --rm -p 8080:8080 -v "$PWD/site:/srv/site:ro" gateway
#
# The site's folder holds site.hcl and what it names. The image's own site.hcl shows that it works.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=container
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /gateway ./cmd/gateway

FROM debian:bookworm-slim
RUN apt-get update \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates php-cgi \
	&& rm -rf /var/lib/apt/lists/* \
	&& useradd --system --uid 10001 --user-group --home-dir /var/lib/gateway --shell /usr/sbin/nologin gateway \
	&& install -d -o gateway -g gateway -m 0700 /run/gateway /var/lib/gateway
COPY --from=build /gateway /usr/local/bin/gateway
COPY examples/legacy-php /srv/site
ENV LISTEN=:8080 XDG_RUNTIME_DIR=/run XDG_STATE_HOME=/var/lib
USER 10001:10001
VOLUME /var/lib/gateway
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s \
	CMD ["gateway", "status"]
# The gateway is PID 1: it reaps orphans and takes the container's signals, so no init is needed.
ENTRYPOINT ["gateway", "run"]
CMD ["/srv/site/site.hcl"]
