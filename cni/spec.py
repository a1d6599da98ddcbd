"""The CNI specification's words, as far as a plugin needs them: versions, error codes, environment, names.

https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md; sections are named where a rule comes from.

    code  meaning here
    1     cniVersion is not supported, or the verb does not exist in it
    4     an environment variable is missing or malformed, or what it names isn't there (CNI_NETNS)
    5     stdin, stdout or a socket can't be used: permissions
    6     stdin is not a JSON object
    7     a key of the network configuration is missing, ill-typed or refused by a service
    11    try again later: a service is down or too slow, a pool is exhausted
    50    STATUS: ADD would fail now
    51    STATUS: ADD would fail now, and pods that run already have limited connectivity
    100   the plugin itself failed: a bug
    101   CHECK: the attachment is not as it should be
    102   the node can't do it now: the datapath can't be built, the node isn't configured
    103   somebody else has it: an interface of that name, an address
    104   a service failed, or answered something that can't be understood
    105   GC: something could not be removed
"""

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = "1.1.0"
# The first version that knows the verb (SPEC.md, section 2).
SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}

INCOMPATIBLE_VERSION, BAD_ENVIRONMENT, IO_FAILURE, DECODE_FAILURE, BAD_CONFIG, TRY_AGAIN = 1, 4, 5, 6, 7, 11
NOT_AVAILABLE, LIMITED_CONNECTIVITY = 50, 51
INTERNAL, NOT_AS_IT_SHOULD_BE, PRECONDITION, CONFLICT, SERVICE_FAILURE, INCOMPLETE = range(100, 106)

# Variables that each verb needs. CNI_PATH is the specification's for delegation, which podlane doesn't do.
REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"),
    "STATUS": (),
    "GC": (),
    "VERSION": (),
}
IFNAME_BYTES = 15
# A message quotes no more than this of what it was given.
QUOTED = 80


class CniError(Exception):
    """An error as the specification wants it printed: `code` of the table above, one sentence, details."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        """Keep all three."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class Environment:
    """What the runtime says in environment variables, checked as far as the verb needs them.

    `verb`, `container_id`, `ifname`, `netns`; "" where the verb doesn't need it and it isn't set. `variables` has all.
    """

    __slots__ = ("container_id", "ifname", "netns", "variables", "verb")

    def __init__(self, variables: dict[bytes, bytes]) -> None:
        """Check; raises CniError with code 4 that names the variable."""
        self.variables = variables
        self.verb = self.text("CNI_COMMAND")
        if self.verb not in REQUIRED:
            known = ", ".join(REQUIRED)
            problem = f"{quoted(self.verb)} is not a verb" if self.verb else "is not set"
            raise CniError(BAD_ENVIRONMENT, f"CNI_COMMAND {problem}; a runtime sets it to one of {known}")
        for name in REQUIRED[self.verb]:
            if not variables.get(name.encode()):
                raise CniError(BAD_ENVIRONMENT, f"{name} is not set; {self.verb} needs it")
        self.container_id = self.text("CNI_CONTAINERID")
        self.ifname = self.text("CNI_IFNAME")
        self.netns = self.text("CNI_NETNS")
        if REQUIRED[self.verb]:
            check_name("CNI_CONTAINERID", self.container_id, BAD_ENVIRONMENT)
            check_ifname(self.ifname)
        if "CNI_NETNS" in REQUIRED[self.verb] and not self.netns.startswith("/"):
            # The loader opens it, and works in another directory.
            raise CniError(BAD_ENVIRONMENT, f"CNI_NETNS {quoted(self.netns)} is not an absolute path")

    def text(self, name: str) -> str:
        """Return a variable as text, "" if it isn't set."""
        try:
            return self.variables.get(name.encode(), b"").decode()
        except UnicodeDecodeError:
            value = self.variables[name.encode()].decode("utf-8", "backslashreplace")
            raise CniError(BAD_ENVIRONMENT, f"{name} {quoted(value)} is not UTF-8") from None


def check_name(field: str, value: str, code: int) -> None:
    """Refuse what is not a letter or digit followed by letters, digits, `_`, `.` or `-` (section 1 and 2)."""
    rest = value.replace("_", "").replace(".", "").replace("-", "")
    if not (value[:1].isalnum() and value.isascii() and rest.isalnum()):
        raise CniError(
            code, f"{field} {quoted(value)} must begin with a letter or digit and then hold only those, '_', '.' or '-'"
        )


def check_ifname(ifname: str) -> None:
    """Refuse what the kernel doesn't take as an interface's name (section 2, CNI_IFNAME)."""
    size = len(ifname.encode())
    if size > IFNAME_BYTES:
        raise CniError(
            BAD_ENVIRONMENT,
            f"CNI_IFNAME {quoted(ifname)} has {size} bytes; an interface name has {IFNAME_BYTES} at most",
        )
    if ifname in (".", "..") or "/" in ifname or ":" in ifname or ifname.split() != [ifname]:
        raise CniError(
            BAD_ENVIRONMENT,
            f"CNI_IFNAME {quoted(ifname)} is not an interface name ('/', ':' and blanks can't be in it)",
        )


def check_version(version: object, verb: str) -> str:
    """Return a configuration's cniVersion, or raise CniError with code 1."""
    supported = ", ".join(VERSIONS)
    if version is None:
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion is missing; podlane supports {supported}")
    if version not in VERSIONS:
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {quoted(version)} is not supported; podlane has {supported}")
    since = SINCE.get(verb, VERSIONS[0])
    if VERSIONS.index(str(version)) < VERSIONS.index(since):
        raise CniError(
            INCOMPATIBLE_VERSION, f"{verb} needs cniVersion {since} or later, this configuration has {version}"
        )
    return str(version)


def quoted(value: object) -> str:
    """Return a value as an error message shows it: escaped, and cut where it gets long."""
    text = repr(value)
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}… ({len(text)} characters)"
