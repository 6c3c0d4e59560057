#!/bin/sh
# Prefers the Argon2 built for x86-64-v3 where the system's loader says that this CPU has it; elsewhere, as on ARM, where
# there is no such loader, the plain one is found.
set -eu
if /lib64/ld-linux-x86-64.so.2 --help 2>/dev/null | grep -q '^ *x86-64-v3 (supported'; then
    export PYTHONPATH=/opt/argon2-x86-64-v3
fi
exec authix-issuer "$@"
