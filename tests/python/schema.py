"""TOML files against a JSON Schema, as editors check them.

usage: schema.py SCHEMA FILE...

The schema has to be one itself. Prints one JSON object: for each file where it breaks the schema, as dotted paths. Drafts 4
and 7, for editors that know no newer one, have to find the same as 2020-12.
"""

import json
import sys
import tomllib
from pathlib import Path

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator

schema = json.loads(Path(sys.argv[1]).read_text())
assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"], schema["$schema"]
validators = []
for draft in (Draft202012Validator, Draft7Validator, Draft4Validator):
    draft.check_schema(schema)
    validators.append(draft(schema))

found = {}
for name in sys.argv[2:]:
    document = tomllib.loads(Path(name).read_text())
    by_draft = [
        sorted(".".join(map(str, error.path)) + ": " + error.message for error in validator.iter_errors(document))
        for validator in validators
    ]
    paths = [[error.split(": ")[0] for error in errors] for errors in by_draft]
    assert paths[0] == paths[1] == paths[2], (name, by_draft)
    found[name] = by_draft[0]
json.dump(found, sys.stdout)
