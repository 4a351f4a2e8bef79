"""A job's payload as it stands in the queue: with handles in the place of the values of secrets.

A payload has to be there whole when the job runs, and so can't be redacted; but the values of the project's secrets are
at hand then as they are now. So the table has handles (`flux.hostcalls.secret`), made for this one job: under the
tenant's key, which nobody else has, so no text that somebody pushes is taken for one. A secret that has
another value by the time the job runs is not put back: the job meets the handle.
"""

import json
import uuid
from collections.abc import Sequence

from flux.hidden import HIDDEN_CHARACTERS_MIN
from flux.hostcalls.secret import TenantSecrets


def hide_secrets(secrets: TenantSecrets, job: uuid.UUID, payload: bytes) -> bytes:
    """Return ``payload``, which is JSON, with handles for the values of secrets; the same object if it has none."""
    pairs = secrets.of_execution(job.bytes).stand_ins()
    return _replace_texts(payload, [(value, handle) for value, handle in pairs if len(value) >= HIDDEN_CHARACTERS_MIN])


def put_secrets_back(secrets: TenantSecrets, job: uuid.UUID, stored: bytes) -> bytes:
    """Return the payload that `hide_secrets` was given."""
    if b"flux-secret:" not in stored:
        return stored
    return _replace_texts(stored, [(handle, value) for value, handle in secrets.of_execution(job.bytes).stand_ins()])


def _replace_texts(payload: bytes, pairs: Sequence[tuple[str, str]]) -> bytes:
    # Longest first: of two values that begin alike, the longer one must not lose only its head.
    ordered = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)

    def walk(value: object) -> object:
        match value:
            case str():
                for old, new in ordered:
                    value = value.replace(old, new)
                return value
            case list():
                return [walk(item) for item in value]
            case dict():
                return {walk(key): walk(item) for key, item in value.items()}
        return value

    document = json.loads(payload)
    replaced = walk(document)
    if replaced == document:
        return payload
    return json.dumps(replaced, ensure_ascii=False, separators=(",", ":")).encode()
