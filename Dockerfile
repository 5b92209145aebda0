# Two images, `--target elector` and `--target webhook`. Both are a Python with what uv.lock lists for them and nothing else: no
# shell, no package manager, no compiler. All that is specific to a processor comes from the base, so any that Debian has will do.
# Where the network re-signs TLS, hand in the CA bundle: --secret id=ca,src=FILE. It does not stay in the image.

ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY uv.lock ./
# The version of uv that the lock file names, as in a checkout.
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
 && python3 -m venv /opt/uv \
 && /opt/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check \
    "uv==$(sed -n '/^name = "uv"$/{n;s/version = "\(.*\)"/\1/p;}' uv.lock)"
COPY pyproject.toml README.md LICENSE ./
COPY elector elector
COPY webhook webhook
ENV UV_PROJECT_ENVIRONMENT=/opt/leader-election UV_PYTHON=/usr/bin/python3 UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1

FROM build AS elector-packages
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi \
 && /opt/uv/bin/uv sync --quiet --frozen --no-dev --no-editable \
 && rm -rf /opt/leader-election/lib/python3.13/site-packages/webhook /opt/leader-election/bin/leader-election

FROM build AS webhook-packages
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi \
 && /opt/uv/bin/uv sync --quiet --frozen --no-dev --no-editable --extra webhook

# The interpreter without what no server needs, compiled since the images' root is read-only, and the system's libraries that it
# and the packages are linked with. Both images share this layer.
FROM webhook-packages AS system
RUN mkdir -p /image/usr/bin /image/usr/lib /image/etc /image/tmp && chmod 1777 /image/tmp \
 && for link in /bin /lib /lib64; do \
      if [ -L "$link" ]; then cp -a "$link" "/image$link"; mkdir -p "/image/$(readlink "$link")"; fi; \
    done \
 && cp -a /usr/bin/python3 /usr/bin/python3.13 /image/usr/bin/ \
 && cp -a /usr/lib/python3.13 /image/usr/lib/ \
 && cd /image/usr/lib/python3.13 \
 && rm -rf __pycache__ sitecustomize.py EXTERNALLY-MANAGED config-* ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo \
    venv xmlrpc curses sqlite3 dbm turtle.py lib-dynload/_test* lib-dynload/_curses* lib-dynload/_dbm* lib-dynload/_gdbm* \
    lib-dynload/_sqlite3* lib-dynload/_tkinter* lib-dynload/readline* lib-dynload/_ctypes_test* lib-dynload/_xx* lib-dynload/xx* \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /image -p / /image/usr/lib/python3.13 \
 && find /image /opt/leader-election -type f \( -name '*.so*' -o -path '*/bin/python3*' \) -exec ldd {} \; 2>/dev/null \
    | sed -n 's#^[[:space:]]*\(.* => \)\{0,1\}\(/\(usr/\)\{0,1\}lib[^ ]*\) (0x.*#\2#p' | sort -u \
    | xargs cp -L --parents --target-directory=/image \
 && echo 'nonroot:x:65532:65532::/:/sbin/nologin' > /image/etc/passwd \
 && echo 'nonroot:x:65532:' > /image/etc/group \
 && echo 'hosts: files dns' > /image/etc/nsswitch.conf

FROM scratch AS elector
COPY --from=system /image /
COPY --from=elector-packages /opt/leader-election /opt/leader-election
ENV PATH=/opt/leader-election/bin:/usr/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["/opt/leader-election/bin/elector"]

FROM scratch AS webhook
COPY --from=system /image /
COPY --from=webhook-packages /opt/leader-election /opt/leader-election
ENV PATH=/opt/leader-election/bin:/usr/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["/opt/leader-election/bin/leader-election"]
