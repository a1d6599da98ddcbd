"""What a failed request to etcd means. Pure.

gRPC says UNAVAILABLE for a refused connection, a certificate that isn't trusted, a member without a leader and a
connection that was cut in the middle of a request; only the details tell them apart. The sentences are those of etcd
3.4 and 3.5 (`api/v3rpc/rpctypes/error.go`) and of gRPC's core; one that isn't known counts as the worst of its code:
the request may have been carried out.

    UNREACHED      not carried out; another member, or this one later, may answer
    LOST           nobody knows whether it was carried out; whatever may be repeated is
    TOKEN          not carried out; log in again
    TLS            not carried out; this member and we can't agree on certificates, as they are now
    NO_USERS       not carried out; authentication is off, so there is nothing to log in to
    MEMBER_REFUSES not carried out; it belongs to another store, or is no etcd
    STORE_REFUSES  not carried out; no member will: credentials, permission, another cluster, no space
    LEASE_GONE     not carried out; the lease isn't there any more
    COMPACTED      the revision is not kept any more
    INVALID        our own mistake
"""

from enum import Enum, auto


class Verdict(Enum):
    """See above."""

    UNREACHED = auto()
    LOST = auto()
    TOKEN = auto()
    NO_USERS = auto()
    TLS = auto()
    MEMBER_REFUSES = auto()
    STORE_REFUSES = auto()
    LEASE_GONE = auto()
    COMPACTED = auto()
    INVALID = auto()


class Problem(Exception):
    """One attempt at one member failed; `words` say how, as a part of a sentence."""

    def __init__(self, verdict: Verdict, words: str) -> None:
        """Keep both."""
        super().__init__(words)
        self.verdict, self.words = verdict, words


# By what the details hold; the first that fits decides.
_KNOWN = (
    ("invalid auth token", Verdict.TOKEN, "doesn't know our token"),
    ("revision of auth store is old", Verdict.TOKEN, "has changed its users since we logged in"),
    ("authentication is not enabled", Verdict.NO_USERS, "has authentication off"),
    ("user name is empty", Verdict.TOKEN, "wants a user name and password: set [kvstore] username and password_file"),
    ("invalid user ID or password", Verdict.STORE_REFUSES, "refuses the user name or the password"),
    ("authentication failed", Verdict.STORE_REFUSES, "refuses the user name or the password"),
    ("permission denied", Verdict.STORE_REFUSES, "denies our user these keys: see docs/kvstore.md for its role"),
    ("database space exceeded", Verdict.STORE_REFUSES, "has no space left: compact, defragment and disarm its alarm"),
    ("lease not found", Verdict.LEASE_GONE, "doesn't know our lease"),
    ("has been compacted", Verdict.COMPACTED, "doesn't keep that revision any more"),
    ("request is too large", Verdict.INVALID, "finds the request too large"),
    ("larger than max", Verdict.INVALID, "finds the request too large"),
    ("too many operations", Verdict.INVALID, "finds too many changes in one commit"),
    ("duplicate key", Verdict.INVALID, "finds a key twice in one commit"),
    ("no leader", Verdict.UNREACHED, "has no leader: most members are down or cut off from it"),
    ("too many requests", Verdict.UNREACHED, "has too many requests"),
    ("not supported for learner", Verdict.UNREACHED, "is a learner, which answers nobody yet"),
    ("not capable", Verdict.UNREACHED, "is not ready yet"),
    ("certificate has expired", Verdict.TLS, "shows a certificate that has expired"),
    ("certificate is not yet valid", Verdict.TLS, "shows a certificate of the future: do the clocks agree?"),
    ("CERTIFICATE_VERIFY_FAILED", Verdict.TLS, "shows a certificate that [kvstore] ca has not signed"),
    ("Hostname Verification", Verdict.TLS, "shows a certificate that is not for this address"),
    ("BAD_CERTIFICATE", Verdict.TLS, "refuses our certificate"),
    ("CERTIFICATE", Verdict.TLS, "refuses our certificate"),
    ("Unwrap failed", Verdict.TLS, "refuses our certificate: it wants one that its own CA has signed"),
    ("security handshaker", Verdict.TLS, "can't be asked: [kvstore] ca, certificate or key is no PEM file"),
    ("WRONG_VERSION_NUMBER", Verdict.TLS, "doesn't speak TLS: is it http://?"),
    ("Handshake read failed", Verdict.UNREACHED, "ends the connection in the TLS handshake: is it http://?"),
    ("handshake failed", Verdict.TLS, "and we can't agree on TLS"),
    ("to all addresses; last error: UNAVAILABLE", Verdict.UNREACHED, "ends the connection at once: is it https://?"),
    ("Connection refused", Verdict.UNREACHED, "refuses connections"),
    ("No route to host", Verdict.UNREACHED, "can't be reached: no route to host"),
    ("Network is unreachable", Verdict.UNREACHED, "can't be reached: network is unreachable"),
    ("errors resolving", Verdict.UNREACHED, "has a name that nobody knows"),
    ("DNS resolution failed", Verdict.UNREACHED, "has a name that nobody knows"),
    ("failed to connect to all addresses", Verdict.UNREACHED, "can't be connected to"),
    ("request timed out", Verdict.LOST, "took too long"),
)
_BY_CODE = {
    "DEADLINE_EXCEEDED": (Verdict.LOST, "doesn't answer"),
    "INVALID_ARGUMENT": (Verdict.INVALID, "finds the request wrong"),
    "UNIMPLEMENTED": (Verdict.MEMBER_REFUSES, "is no etcd with API version 3"),
    "UNAUTHENTICATED": (Verdict.TOKEN, "doesn't know who we are"),
    "PERMISSION_DENIED": (Verdict.STORE_REFUSES, "denies it"),
}

_SPOKEN = {"DEADLINE_EXCEEDED"}
"""Codes that say all that their details do."""


def judge(code: str, details: str) -> Problem:
    """Return what a failure is, by the name of its gRPC status code and its details.

    >>> judge("UNAVAILABLE", "etcdserver: no leader").verdict
    <Verdict.UNREACHED: 1>
    """
    for part, verdict, words in _KNOWN:
        if part in details:
            return Problem(verdict, words)
    verdict, words = _BY_CODE.get(code, (Verdict.LOST, "failed"))
    return Problem(
        verdict, f"{words} ({code.lower()}: {details})" if details and verdict is not Verdict.LOST else words
    )
