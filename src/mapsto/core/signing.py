"""Messages that prove who wrote them: a code (HMAC-SHA256) under a secret that only the processes of a run know.

The code covers the purpose as well as the message, so that what was written for one place proves nothing in another.
"""

from __future__ import annotations

import hashlib
import hmac

VARIABLE = "MAPSTO_SECRET"
"""The environment variable that holds the secret, as text: of a node as the user gave it, of a rank as its launcher did."""
SIZE = hashlib.sha256().digest_size
"""Bytes of a code."""


def code_of(secret: bytes, purpose: bytes, message: bytes) -> bytes:
    """The code of a message that is written for this purpose: SIZE bytes."""
    return hmac.digest(secret, len(purpose).to_bytes(8, "big") + purpose + message, "sha256")


def sign(secret: bytes, purpose: bytes, message: bytes) -> bytes:
    """The message with its code in front: SIZE bytes more."""
    return code_of(secret, purpose, message) + message


def verified(secret: bytes, purpose: bytes, signed: bytes) -> bytes | None:
    """The message of what `sign` made with the same secret for the same purpose; None for anything else."""
    code, message = signed[:SIZE], signed[SIZE:]
    return message if hmac.compare_digest(code, code_of(secret, purpose, message)) else None
