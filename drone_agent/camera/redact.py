"""How is a source named in logs and errors without giving its password away?"""

from __future__ import annotations

import re

HIDDEN = "***"

# Greedy on purpose: a password may contain '@' or '/', and hiding too much is better than too little.
_USER_INFO = re.compile(r"(?<=://).*@", re.DOTALL)
# Some cameras take the password in the query or even in the path (`/user=admin_password=secret_channel=1`).
_PARAMETER = re.compile(r"(?i)(pass(?:word|wd|phrase)?|pwd|pw|token|secret|key|auth|user(?:name)?)=[^&\s]*")


def redact(url: str) -> str:
    """`url` without user name, password and tokens: `rtsp://***@host:554/stream`."""
    hidden = _USER_INFO.sub(f"{HIDDEN}@", url)
    return _PARAMETER.sub(lambda match: f"{match[1]}={HIDDEN}", hidden)
