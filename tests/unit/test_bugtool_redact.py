"""No secret leaves the node: by its key's name, by its value, in every form that it may be written in."""

import base64
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from cli.report.redact import REDACTED, Redactor, forms

SECRET = 's3cr+t/pä"ss w0rd'


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
@pytest.mark.parametrize("after", ["", "z", "yz", "\n"])
def test_a_value_is_found_in_base64_at_any_offset(before: str, after: str):
    written = base64.b64encode(f"{before}{SECRET}{after}".encode())
    urlsafe = base64.urlsafe_b64encode(f"{before}{SECRET}{after}".encode())

    for text in (written.decode(), urlsafe.decode()):
        cleaned = Redactor([SECRET]).clean(f"header {text} trailer")

        assert REDACTED in cleaned
        # A character or two at the ends share bits with what stands beside it.
        assert len(cleaned) - len(f"header {REDACTED} trailer") <= len(before + after) * 2 + 6
        assert not any(form in cleaned for form in forms(SECRET))


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        json.dumps(SECRET),
        quote(SECRET, safe=""),
        SECRET.encode().hex(),
        f"x{SECRET}y",
        SECRET.encode().hex().upper(),
    ],
)
def test_a_value_is_found_however_it_is_written(written: str):
    for content in (f"said {written} there", {"a": [f"said {written} there"]}, {written: 1}):
        cleaned = json.dumps(Redactor([SECRET]).clean(content), ensure_ascii=False)

        assert REDACTED in cleaned
        assert written.strip('"') not in cleaned


@pytest.mark.parametrize(
    ("content", "cleaned"),
    [
        ({"password": "hunter22"}, {"password": REDACTED}),
        (
            {"apiKey": "k", "API_KEY": "k", "authToken": ["a", "b"]},
            {"apiKey": REDACTED, "API_KEY": REDACTED, "authToken": REDACTED},
        ),
        ({"env": {"HOME": "/root"}}, {"env": REDACTED}),
        (
            {"password_file": "/etc/podlane/pw", "key": "podlane/state"},
            {"password_file": "/etc/podlane/pw", "key": "podlane/state"},
        ),
        ({"password": ""}, {"password": ""}),
        ({"value": '{"node": "a", "token": "tok"}'}, {"value": '{"node": "a", "token": "<redacted>"}'}),
        (["https://root:pw@10.0.0.1:2379/a"], [f"https://{REDACTED}@10.0.0.1:2379/a"]),
        ({"endpoints": ["https://10.0.0.1:2379"]}, {"endpoints": ["https://10.0.0.1:2379"]}),
        (
            {"addresses": ["fd00:44::2/128"], "mac": "0a:00:00:00:00:01"},
            {"addresses": ["fd00:44::2/128"], "mac": "0a:00:00:00:00:01"},
        ),
        ("login password=hunter22 user=web", f"login password={REDACTED} user=web"),
        ('{"event": "x", "token": "abc def"}', f'{{"event": "x", "token": {REDACTED}}}'),
        ("Authorization: Bearer abcdefghijklmnop.qr", f"Authorization: Bearer {REDACTED}"),
        ("sent Bearer abcdefghijklmnop.qr on", f"sent Bearer {REDACTED} on"),
        ("a -----BEGIN EC PRIVATE KEY-----\nMHcC\nAQE=\n-----END EC PRIVATE KEY----- b", f"a {REDACTED} b"),
        ("cut -----BEGIN CERTIFICATE-----\nMIIB", f"cut {REDACTED}"),
    ],
)
def test_what_stands_at_a_secrets_place_goes_and_the_rest_stays(content: Any, cleaned: Any):
    assert Redactor().clean(content) == cleaned


def test_a_value_at_a_secrets_key_is_taken_out_of_everything_else():
    redactor = Redactor()
    redactor.learn({"plugins": [{"token": "abcdefgh-1234"}]})
    redactor.learn({"url": "http://me:otherwise9@host/"})
    redactor.learn({"labels": {"secret": "on"}})

    assert redactor.clean("started with abcdefgh-1234, otherwise9, on") == f"started with {REDACTED}, {REDACTED}, on"


def test_a_secret_that_is_a_part_of_another_leaves_no_rest():
    assert Redactor(["hunter", "hunter-and-fisher"]).clean("hunter-and-fisher hunter") == f"{REDACTED} {REDACTED}"


def test_a_value_that_is_found_everywhere_is_not_searched_for():
    assert Redactor(["", "10"]).clean({"address": "10.44.0.2"}) == {"address": "10.44.0.2"}


def test_a_secret_of_digits_leaves_json_as_it_is():
    assert Redactor(["1500"]).clean({"mtu": 1500, "said": "1500"}) == {"mtu": 1500, "said": REDACTED}


def test_long_runs_cost_no_more_than_their_length():
    """A pattern that looked back from each place would take an hour for this."""
    Redactor([SECRET]).clean({"run": "a" * (1 << 21), "dots": "token." * (1 << 18), "slashes": "://" * (1 << 16)})
    assert time.process_time() < 600
