"""SHA-256 without OpenSSL, for what is done at the beginning of each execution.

``hashlib.sha256`` is OpenSSL's: its objects, its tables and its code are pages of memory that each worker pays for
anew, and most functions need none of them. Python brings the same function along.
"""

import hashlib

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # Python 3.12 and newer
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:  # Python was built without it.
        sha256 = hashlib.sha256

__all__ = ["sha256"]
