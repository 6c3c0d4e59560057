"""Check the objects on standard input (a JSON list) against Kubernetes' schemas; prints what does not fit.

Rule: strictly, so that an unknown field is a finding; for the newest three versions that there are schemas of.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from typing import Any


def main() -> int:
    schemas: Any = importlib.import_module("kubernetes_validate.utils")  # only where PYTHONPATH holds it
    schemas.schema_contents = functools.cache(schemas.schema_contents)  # each is read once, not once for each object
    objects, code = json.load(sys.stdin), 0
    for version in schemas.all_versions()[-3:]:
        for made in objects:
            try:
                schemas.validate(made, version, strict=True)
            except (schemas.ValidationError, schemas.SchemaNotFoundError) as error:
                place = "/".join(map(str, getattr(error, "absolute_path", ())))
                sys.stdout.write(f"{version} {made['kind']} {made['metadata']['name']} {place}: {error.message}\n")
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
