"""The exceptions of podlane: one tree, drawn once.

    PodlaneError
    ├── InvalidArgument      the request is wrong; the message names the field       → CNI 4 or 7
    ├── NotFound             what the request names isn't there
    ├── AlreadyExists        somebody else holds it
    ├── FailedPrecondition   right request, wrong moment; the message says what first
    ├── Exhausted            a pool, a map or an id space is full, with numbers
    ├── Unavailable          a peer or the kernel can't answer now; trying again may help → CNI 11
    ├── DeadlineExceeded     it took longer than the caller would wait
    └── Internal             a bug, or state on disk that can't be trusted
        └── CorruptState     a file of ours is damaged or newer than this program

A message is a sentence for the person at 3 a.m.: what failed, on which object, with which numbers, what to do.
`fields` are the same facts for machines. Only `edge.py` and `client.py` know that gRPC has codes for these.
"""


class PodlaneError(Exception):
    """Base of all errors that podlane raises on purpose.

    `message` is one sentence without a final full stop; `fields` become the metadata of a
    `google.rpc.ErrorInfo` and so must have short values.
    """

    def __init__(self, message: str, **fields: object) -> None:
        """Keep the sentence and its facts."""
        super().__init__(message)
        self.message = message
        self.fields: dict[str, str] = {name: str(value) for name, value in fields.items()}


class InvalidArgument(PodlaneError):
    """The request can never succeed as it is; the message names the field and what it may be."""


class NotFound(PodlaneError):
    """The object that the request names does not exist."""


class AlreadyExists(PodlaneError):
    """The object exists and belongs to somebody else, or differs from what was asked for."""


class FailedPrecondition(PodlaneError):
    """The request is right but something else must happen first; the message says what."""


class Exhausted(PodlaneError):
    """Nothing is left of something that has a size; the fields carry the numbers."""


class Unavailable(PodlaneError):
    """A peer does not answer or the kernel refuses for now; the same request may succeed later."""


class DeadlineExceeded(PodlaneError):
    """The caller's deadline passed; whether the work was done is not known."""


class Internal(PodlaneError):
    """A broken invariant."""


class CorruptState(Internal):
    """State on disk that is damaged or newer than this program. It is kept, never repaired silently."""
