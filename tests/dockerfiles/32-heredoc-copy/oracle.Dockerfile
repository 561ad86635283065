FROM alpine:3.20.2
ENV V=val
RUN mkdir /conf && echo "key=val it's" > /conf/a && echo '$V' > /conf/ONE && echo two > /conf/TWO && chmod 644 /conf/*
