#!/bin/sh
# Prefers the Argon2 built for the most that the system's loader says this CPU has, x86-64-v4 (AVX-512) or -v3 (AVX2);
# elsewhere, as on ARM, where there is no such loader, the plain one is found. A PYTHONPATH that is set, if only to nothing,
# is left as it is.
set -eu
has=$(/lib64/ld-linux-x86-64.so.2 --help 2>/dev/null | sed -n 's/^ *\(x86-64-v[34]\) (supported.*/\1/p' | sort | tail -n 1)
if [ -n "$has" ]; then
    export PYTHONPATH="${PYTHONPATH-/opt/argon2-$has}"
fi
exec authix-issuer "$@"
