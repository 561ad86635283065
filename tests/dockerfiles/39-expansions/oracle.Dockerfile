FROM alpine:3.20.2
ENV F=/usr/local/lib/x.tar.gz
ENV A=x.tar.gz B=/usr/local/lib/x.tar C=/usr/local/lib/x D=/local/lib/x.tar.gz E=/usr/share/lib/x.tar.gz G=_usr_local_lib_x.tar.gz
