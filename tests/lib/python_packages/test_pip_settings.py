"""pip's settings, compared with what the real pip reads, and their translation for uv."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.python_packages import pip_settings
from lib.python_packages.default_index import default_index

READ_BY_PIP = """
import json, sys
from pip._internal.commands import create_command
options, _ = create_command("install").parser.parse_args([])
print(json.dumps({"index-url": options.index_url, "extra-index-url": options.extra_index_urls,
    "find-links": options.find_links, "trusted-host": options.trusted_hosts, "cert": options.cert,
    "no-index": options.no_index, "timeout": options.timeout, "proxy": options.proxy}))
"""


@pytest.fixture
def home(tmp_path):
    """Return a folder with configuration files of pip, each of which overrides a part of the one before."""
    files = {
        "xdg/pip/pip.conf": "[global]\nindex-url = https://global.example/simple\ntimeout = 5\ncert = /global.pem\n"
        "trusted-host =\n    a.example\n    b.example\n[install]\nfind_links = /one /two\n",
        ".pip/pip.conf": "[global]\ntimeout = 6\nproxy = http://proxy.example:1\n[list]\nindex-url = no\n",
        ".config/pip/pip.conf": "[install]\nindex-url = https://install.example/100%25/simple\ntimeout=7\n",
        "named.conf": "[global]\nindex-url = https://named.example/simple\nno-index = yes\ncert =\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def read_by_pip(environment):
    """Return the options of ``pip install``, read by the pip that this Python has or bundles."""
    bundled = sorted(Path(os.__file__).parent.joinpath("ensurepip", "_bundled").glob("pip-*.whl"))
    command = [sys.executable, "-s", "-c", READ_BY_PIP]
    path = {"PYTHONPATH": str(bundled[0])} if bundled else {}
    done = subprocess.run(
        command, env=environment | path, capture_output=True, text=True, check=False
    )
    if "No module named 'pip" in done.stderr:
        pytest.skip("this Python has no pip")
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {
            "PIP_INDEX_URL": "https://environment.example/simple",
            "PIP_CERT": "",
            "PIP_DEFAULT_TIMEOUT": "9",
        },
        {
            "PIP_CONFIG_FILE": "named.conf",
            "PIP_EXTRA_INDEX_URL": "https://x.example https://y.example",
        },
        {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "0"},
    ],
    ids=["files", "environment", "named-file", "no-files"],
)
def test_settings_equal_those_that_pip_reads(home, variables):
    environment = {
        "HOME": str(home),
        "XDG_CONFIG_DIRS": str(home / "xdg"),
        "PATH": os.environ["PATH"],
    }
    if (name := variables.get("PIP_CONFIG_FILE")) and name != os.devnull:
        variables = variables | {"PIP_CONFIG_FILE": str(home / name)}
    environment |= variables

    read = pip_settings.read_settings(environment)

    expected = read_by_pip(environment)
    default = default_index()
    assert {
        "index-url": read.text("index-url") or default or expected["index-url"],
        "extra-index-url": read.texts("extra-index-url"),
        "find-links": read.texts("find-links"),
        "trusted-host": read.texts("trusted-host"),
        "cert": read.text("cert") or None,
        "no-index": read.is_on("no-index"),
        "timeout": float(read.text("timeout") or 15),
        "proxy": read.text("proxy"),
    } == expected


def test_uv_gets_the_settings_of_pip_except_those_that_the_user_gave_to_uv(tmp_path):
    environment = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "https://pip.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://x.example https://y.example",
        "PIP_FIND_LINKS": f"{tmp_path} /does/not/exist https://links.example",
        "PIP_TRUSTED_HOST": "a.example b.example",
        "PIP_CERT": "/company.pem",
        "PIP_CLIENT_CERT": "/client.pem",
        "PIP_PROXY": "http://proxy.example:3128",
        "PIP_TIMEOUT": "40",
        "PIP_NO_INDEX": "true",
        "PIP_ONLY_BINARY": ":all:",
        "UV_DEFAULT_INDEX": "https://uv.example/simple",
        "VIRTUAL_ENV": "/another",
    }

    result = pip_settings.environment_for_uv(environment)

    assert {name: value for name, value in result.items() if not name.startswith("PIP_")} == {
        "UV_DEFAULT_INDEX": "https://uv.example/simple",
        "UV_INDEX": "https://x.example https://y.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{tmp_path},https://links.example",
        "UV_INSECURE_HOST": "a.example b.example",
        "SSL_CERT_FILE": "/company.pem",
        "SSL_CLIENT_CERT": "/client.pem",
        "HTTP_PROXY": "http://proxy.example:3128",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "ALL_PROXY": "http://proxy.example:3128",
        "http_proxy": "http://proxy.example:3128",
        "https_proxy": "http://proxy.example:3128",
        "all_proxy": "http://proxy.example:3128",
        "UV_HTTP_TIMEOUT": "40",
        "UV_NO_PROGRESS": "1",
    }
    assert pip_settings.arguments_for_uv(environment) == ["--no-index", "--only-binary", ":all:"]


def test_old_names_of_variables_of_uv_win_too():
    environment = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "https://pip.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://x.example",
        "UV_INDEX_URL": "https://uv.example/simple",
        "UV_EXTRA_INDEX_URL": "https://z.example",
    }

    result = pip_settings.environment_for_uv(environment)

    assert "UV_DEFAULT_INDEX" not in result
    assert "UV_INDEX" not in result
