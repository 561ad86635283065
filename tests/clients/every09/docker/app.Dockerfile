FROM alpine AS base
ARG WORD=none
RUN --mount=type=secret,id=every09-build echo "$WORD $(wc -c < /run/secrets/every09-build)" > /built
FROM base AS later
RUN echo later > /built
