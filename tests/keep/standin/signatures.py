"""Permission signatures of locators, as API server and keepstore make and check them."""

import hashlib
import hmac
import re
import time
from dataclasses import dataclass

KEY = b"standin-blob-signing-key-not-a-secret-0123456789abcdef"
EMPTY = "d41d8cd98f00b204e9800998ecf8427e"
LOCATOR = re.compile(r"[0-9a-f]{32}(\+[0-9]+)?(\+[A-Z][A-Za-z0-9@_-]*)*")
_SIGNED = re.compile(
    r"([0-9a-f]{32})(\+[0-9]+)?((?:\+[B-Z][A-Za-z0-9@_-]*)*)\+A([0-9a-f]{40})@([0-9a-f]{8})((?:\+[B-Z][A-Za-z0-9@_-]*)*)"
)


@dataclass(slots=True)
class Signer:
    """Signs for `ttl` seconds, or not at all."""

    enabled: bool = True
    ttl: int = 336 * 3600

    def sign(self, locator: str, token: str) -> str:
        """`locator` with a signature in place of any it has."""
        if not self.enabled or not token:
            return locator
        expiry = f"{int(time.time()) + self.ttl:08x}"
        bare = re.sub(r"\+A[^+]*", "", locator)
        return f"{bare}+A{self._signature(bare[:32], token, expiry)}@{expiry}"

    def check(self, locator: str, token: str) -> str:
        """What is wrong with the signature, nothing if it holds."""
        if not self.enabled:
            return ""
        found = _SIGNED.fullmatch(locator)
        if found is None:
            return "missing"
        if int(found[5], 16) < time.time():
            return "expired"
        return "" if hmac.compare_digest(self._signature(found[1], token, found[5]), found[4]) else "invalid"

    def _signature(self, digest: str, token: str, expiry: str) -> str:
        return hmac.new(KEY, f"{digest}@{token}@{expiry}@{self.ttl:x}".encode(), hashlib.sha1).hexdigest()
