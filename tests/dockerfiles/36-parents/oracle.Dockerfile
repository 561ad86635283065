FROM alpine:3.20.2
COPY one/two/f /p/one/two/
COPY other/a.txt /p/other/
COPY mix/b.txt /m/
COPY mix/a.md /l/
