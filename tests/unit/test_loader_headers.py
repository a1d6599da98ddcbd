"""The generated headers say the same things as the samples in bpf/, which are the documentation."""

import re
from pathlib import Path

import pytest

from services.loader import headers

BPF = Path(__file__).resolve().parents[2] / "bpf"


def defines(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#define (\w+) ?(.*)$", text, re.MULTILINE))


def test_the_options_are_those_of_the_sample_in_its_order_and_with_its_defaults() -> None:
    sample = (BPF / "ep_config.h").read_text()
    documented = re.findall(r"/\* \[([\w-]+)\].*?\*/\n(/\* )?#define (\w+)", sample, re.DOTALL)

    assert [(name, option.define, option.default) for name, option in headers.OPTIONS.items()] == [
        (name, define, not commented) for name, commented, define in documented
    ]


def test_an_endpoint_without_options_gets_the_samples_switches() -> None:
    assert defines(headers.ep_config({})) == defines((BPF / "ep_config.h").read_text())


def test_a_node_gets_the_samples_sizes() -> None:
    assert defines(headers.node_config()) == defines((BPF / "node_config.h").read_text())


@pytest.mark.parametrize("name", list(headers.OPTIONS))
def test_an_option_turns_exactly_its_define_around(name: str) -> None:
    option = headers.OPTIONS[name]

    turned = set(defines(headers.ep_config({name: not option.default})))

    assert turned ^ set(defines(headers.ep_config({}))) == {option.define}


def test_naming_the_default_changes_nothing() -> None:
    assert headers.ep_config({"debug": False}) == headers.ep_config({})
