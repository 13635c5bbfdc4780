# SPDX-FileCopyrightText: The nvidia-container-runtime authors
# SPDX-License-Identifier: Apache-2.0
#
# Builds one static program, and an image that contains nothing else:
#   make docker-cmd-nvidia-container-runtime.experimental
ARG GO_VERSION=1.26.8
FROM golang:${GO_VERSION} AS build
ARG PROGRAM=nvidia-container-runtime.experimental
ARG VERSION=(devel)
ARG COMMIT=unknown
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -o /out/${PROGRAM} \
	-ldflags "-s -w -X github.com/nvsysfs/nvidia-container-runtime/cmd/internal/version.version=${VERSION} -X github.com/nvsysfs/nvidia-container-runtime/cmd/internal/version.commit=${COMMIT}" \
	./cmd/${PROGRAM}

FROM scratch
COPY --from=build /out/ /
