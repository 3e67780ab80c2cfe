"""Decisions of a policy, its file, and reloading."""

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conversations.sandboxes.egress.hosts import normalize_host
from conversations.sandboxes.egress.policy import (
    REFUSE_ALL,
    BadPolicy,
    Decision,
    Policy,
    PolicyFile,
    Reason,
    write_policy,
)
from tests.lib.test_url_guard import NEVER, PRIVATE

GATEWAY = "http://127.0.0.1:8000/base"


def decide(policy, host, addresses=(), port=443):
    found = [ipaddress.ip_address(address) for address in addresses]
    decision = policy.decide_addresses(host, port, found)
    return decision.allowed, decision.reason.value


@pytest.mark.parametrize(
    ("profile", "host", "decision"),
    [
        ("public", "pypi.org", (True, "public")),
        ("public", "evil.example", (False, "denied")),
        ("public", "EVIL.example.", (False, "denied")),
        ("list", "pypi.org", (True, "listed")),
        ("list", "a.example.com", (True, "listed")),
        ("list", "example.com", (False, "not-listed")),
        ("list", "bad.example.com", (False, "denied")),
        ("list", "git.corp.example", (False, "not-listed")),
        ("none", "pypi.org", (False, "profile-none")),
        ("none", "evil.example", (False, "profile-none")),
    ],
)
def test_name_is_decided_by_the_profile_and_the_lists(profile, host, decision):
    policy = Policy(
        profile=profile,
        hosts=("pypi.org", "*.example.com"),
        denied=("evil.example", "bad.example.com"),
        private=("git.corp.example",),
    )

    assert decide(policy, host) == decision
    assert policy.decide(host, 443) == Decision(decision[0], Reason(decision[1]))


@pytest.mark.parametrize("literal", [host for host in PRIVATE + NEVER if host[0] in "0123456789["])
def test_literal_address_that_is_not_public_is_refused(literal):
    policy = Policy(profile="public")

    assert decide(policy, literal, [normalize_host(literal)]) == (False, "private-address")


@pytest.mark.parametrize(
    ("addresses", "decision"),
    [
        (["93.184.215.14"], (True, "public")),
        (["93.184.215.14", "2606:2800:21f::1"], (True, "public")),
        (["93.184.215.14", "10.0.0.1"], (False, "private-address")),
        (["10.0.0.1", "93.184.215.14"], (False, "private-address")),
        (["::ffff:127.0.0.1"], (False, "private-address")),
        (["64:ff9b::a9fe:a9fe"], (False, "private-address")),
        (["169.254.169.254"], (False, "private-address")),
        (["8.8.8.8"], (False, "denied")),
        (["64:ff9b::808:808"], (False, "denied")),
    ],
)
def test_one_address_that_is_not_allowed_refuses_the_host(addresses, decision):
    policy = Policy(profile="public", denied=("8.8.8.0/24",))

    assert decide(policy, "example.com", addresses) == decision


@pytest.mark.parametrize(
    ("host", "addresses", "decision"),
    [
        ("git.corp.example", ["10.9.9.9"], (True, "private-named")),
        ("git.corp.example", ["127.0.0.1"], (True, "private-named")),
        ("git.corp.example", ["93.184.215.14"], (True, "public")),
        ("git.corp.example", ["169.254.169.254"], (False, "private-address")),
        ("git.corp.example", ["10.9.9.9", "fe80::1"], (False, "private-address")),
        ("a.lab.example", ["fd00::1"], (True, "private-named")),
        ("other.example", ["10.1.2.3"], (True, "private-named")),
        ("other.example", ["10.1.2.3", "10.2.0.1"], (False, "private-address")),
        ("10.1.2.3", ["10.1.2.3"], (True, "private-named")),
        ("0xa.1.2.3", ["10.1.2.3"], (True, "private-named")),
        ("100.100.100.200", ["100.100.100.200"], (False, "private-address")),
    ],
)
def test_private_address_is_allowed_if_the_host_or_the_address_is_named(host, addresses, decision):
    private = ("git.corp.example", "*.lab.example", "10.1.0.0/16", "100.64.0.0/10")

    assert decide(Policy(profile="public", private=private), host, addresses) == decision


def test_list_needs_a_private_host_in_both_lists():
    policy = Policy(profile="list", hosts=("git.corp.example", "10.1.2.3"), private=("10.0.0.0/8",))

    assert decide(policy, "git.corp.example", ["10.9.9.9"]) == (True, "private-named")
    assert decide(policy, "10.1.2.3", ["10.1.2.3"]) == (True, "private-named")
    assert decide(policy, "10.1.2.4", ["10.1.2.4"]) == (False, "not-listed")


@pytest.mark.parametrize(
    ("addresses", "decision"),
    [
        (["93.184.215.14"], (True, "public")),
        (["10.0.0.1"], (True, "open")),
        (["93.184.215.14", "fd00::1"], (True, "open")),
        (["10.9.9.9"], (True, "private-named")),
        (["127.0.0.1"], (False, "private-address")),
        (["::ffff:127.0.0.1"], (False, "private-address")),
        (["10.0.0.1", "::1"], (False, "private-address")),
        (["169.254.169.254"], (False, "private-address")),
        (["8.8.8.8"], (False, "denied")),
    ],
)
def test_proxy_of_an_open_network_refuses_loopback_and_metadata_only(addresses, decision):
    policy = Policy(profile="open", denied=("8.8.8.8",), private=("10.9.9.9",))

    assert decide(policy, "example.com", addresses) == decision


@pytest.mark.parametrize("profile", ["public", "open"])
def test_own_address_of_the_machine_is_private(profile):
    policy = Policy(profile=profile)
    address = ipaddress.ip_address("10.1.2.3")

    decision = policy.decide_addresses("me.example", 443, [address], is_own=lambda a: a == address)

    assert decision == Decision(False, Reason.PRIVATE_ADDRESS)


def test_own_public_address_of_the_machine_is_private():
    policy = Policy(profile="public")
    address = ipaddress.ip_address("93.184.215.14")

    decision = policy.decide_addresses("me.example", 443, [address], is_own=lambda a: a == address)

    assert decision == Decision(False, Reason.PRIVATE_ADDRESS)


@pytest.mark.parametrize("profile", ["public", "list", "none", "open"])
def test_gateway_is_allowed_in_every_profile_at_its_exact_port_only(profile):
    policy = Policy(profile=profile, denied=("127.0.0.1", "openhands.internal"), gateway=GATEWAY)

    assert decide(policy, "127.0.0.1", ["127.0.0.1"], 8000) == (True, "gateway")
    assert decide(policy, "127.1", ["127.0.0.1"], 8000) == (True, "gateway")
    assert decide(policy, "openhands.internal", ["127.0.0.1"], 80) == (True, "gateway")
    assert not decide(policy, "127.0.0.1", ["127.0.0.1"], 8001)[0]
    assert decide(policy, "openhands.internal", [], 443) == (False, "unresolvable")
    assert decide(Policy(profile=profile), "openhands.internal", [], 80) == (False, "unresolvable")


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("https://Agents.Example./x", "agents.example"),
        ("https://agents.example:8443", "agents.example:8443"),
        ("http://[::1]:80", "[::1]"),
    ],
)
def test_gateway_has_the_authority_of_its_url(url, authority):
    assert Policy(profile="none", gateway=url).gateway_target.authority == authority


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "with a profile"),
        ('{"profile": "all"}', "profile must be one of public, list, none"),
        ('{"profile": 1}', "profile must be one of"),
        ('{"profile": "list", "hosts": "pypi.org"}', "hosts must be a list of texts"),
        ('{"profile": "list", "hosts": [1]}', "hosts must be a list of texts"),
        ('{"profile": "list", "denied": {}}', "denied must be a list of texts"),
        ('{"profile": "none", "gateway": 1}', "gateway must be a text"),
        ('{"profile": "none", "gateway": "ftp://a"}', "begins with http:// or https://"),
        ('{"profile": "none", "gateway": "http://a:b"}', "not a valid URL"),
        ('{"profile": "none", "gateway": "http://a:0"}', "begins with http"),
    ],
)
def test_bad_policy_is_refused_with_a_sentence(content, part):
    with pytest.raises(BadPolicy) as caught:
        Policy.from_json(content)

    assert part in str(caught.value)


def test_bad_pattern_of_a_policy_is_refused():
    with pytest.raises(ValueError, match="is a URL"):
        Policy(profile="list", hosts=("https://pypi.org",))


def test_policy_is_the_same_after_writing_and_reading(tmp_path):
    policy = Policy(
        profile="list",
        hosts=("PyPI.org", "*.example.com", "pypi.org."),
        denied=("10.0.0.0/8",),
        private=("git.corp.example", "10.1.0.0/16"),
        gateway=GATEWAY,
    )
    path = tmp_path / "policy.json"

    write_policy(path, policy)

    assert json.loads(path.read_text()) == {
        "profile": "list",
        "hosts": ["pypi.org", "*.example.com"],
        "denied": ["10.0.0.0/8"],
        "private": ["git.corp.example", "10.1.0.0/16"],
        "gateway": GATEWAY,
    }
    assert PolicyFile(path)() == policy
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_read_again_when_it_changes_and_a_bad_one_keeps_the_last_policy(tmp_path):
    path = tmp_path / "policy.json"
    file = PolicyFile(path)
    assert file() == REFUSE_ALL
    assert "cannot be read" in file.error

    write_policy(path, Policy(profile="public"))
    assert file().profile == "public"
    assert file.error == ""
    first = file()
    assert file() is first  # It was not parsed again.

    path.write_text("{")
    assert file() is first
    assert "not JSON" in file.error
    path.unlink()
    assert file() is first
    path.write_text('{"profile": "list", "future": 1}')
    assert file().profile == "list"


def test_proxy_is_imported_without_django():
    program = (
        "import sys, conversations.sandboxes.egress.proxy;"
        "print([m for m in sys.modules if m.split('.')[0] in ('django', 'psutil', 'httpx2')])"
    )
    root = Path(__file__).resolve().parents[4]
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}

    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout == "[]\n"
