FROM alpine:3.20.2
RUN echo one > /one; echo "two 2" > /two
RUN echo "x $HOME" > /three
