"""Downloads of a pinned wheel by the standard library, from real servers on this machine."""

import hashlib
import ipaddress
import json
import os
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lib.python_packages import index
from lib.python_packages.index import NotFetched, Pin, WrongHash

NAME = "tool-2.0-py3-none-any.whl"
CONTENT = b"the content of a wheel" * 1000
PIN = Pin("tool", "2.0", frozenset({hashlib.sha256(CONTENT).hexdigest()}))
ENVIRONMENT = {"PIP_CONFIG_FILE": os.devnull, "HOME": "/nonexistent"}


@pytest.fixture
def pages(tmp_path):
    """Return a folder with an index that has the wheel: ``simple/tool/index.html`` and ``files/``."""
    folder = tmp_path / "served"
    (folder / "simple" / "tool").mkdir(parents=True)
    (folder / "files").mkdir()
    (folder / "files" / NAME).write_bytes(CONTENT)
    (folder / "files" / "tool-1.0-py3-none-any.whl").write_bytes(b"old")
    links = "".join(
        f'<a href="../../files/{name}#sha256={digest}">{name}</a>'
        for name, digest in (
            (NAME, next(iter(PIN.hashes))),
            ("tool-1.0-py3-none-any.whl", "0" * 64),
        )
    )
    (folder / "simple" / "tool" / "index.html").write_text(f"<!DOCTYPE html><body>{links}</body>")
    return folder


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_wheel_of_an_html_index_is_fetched_with_progress(pages, target, serve):
    reports = []
    environment = ENVIRONMENT | {"PIP_INDEX_URL": f"{serve(pages).url}/simple"}

    wheel = index.fetch_wheel(
        PIN, target, environment=environment, report=lambda *numbers: reports.append(numbers)
    )

    assert wheel.read_bytes() == CONTENT
    assert reports[-1] == (len(CONTENT), len(CONTENT))


def test_wheel_of_a_json_index_is_fetched(pages, target, serve):
    page = pages / "simple" / "tool" / "index.json"
    files = [
        {
            "filename": NAME,
            "url": f"../../files/{NAME}",
            "hashes": {"sha256": next(iter(PIN.hashes))},
        }
    ]
    page.write_text(json.dumps({"files": files}))
    source = f"{serve(pages).url}/simple/tool/index.json"

    wheel = index.fetch_wheel(
        PIN, target, environment=ENVIRONMENT | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": source}
    )

    assert wheel.read_bytes() == CONTENT


def test_password_of_the_index_is_sent_and_never_shown(pages, target, serve):
    server = serve(pages)
    url = server.url.replace("//", "//user:secret%21@")

    index.fetch_wheel(PIN, target, environment=ENVIRONMENT | {"UV_DEFAULT_INDEX": f"{url}/simple"})
    with pytest.raises(NotFetched) as error:
        index.fetch_wheel(PIN, target, environment=ENVIRONMENT | {"PIP_INDEX_URL": f"{url}/absent"})

    assert server.paths[0][1]["Authorization"] == "Basic dXNlcjpzZWNyZXQh"
    assert "HTTP 404" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "in-the-file"])
def test_other_content_under_the_name_is_refused_and_removed(pages, target, serve, is_announced):
    page = pages / "simple" / "tool" / "index.html"
    digest = next(iter(PIN.hashes))
    page.write_text(
        page.read_text().replace(f"#sha256={digest}", "#sha256=" + "1" * 64 if is_announced else "")
    )
    (pages / "files" / NAME).write_bytes(b"changed")

    with pytest.raises(
        WrongHash, match=rf"{NAME} from http://127.0.0.1:\d+/files/\S+ is not the pinned file"
    ):
        index.fetch_wheel(
            PIN, target, environment=ENVIRONMENT | {"PIP_INDEX_URL": f"{serve(pages).url}/simple"}
        )

    assert list(target.iterdir()) == []


def test_next_source_is_asked_if_one_has_no_wheel_or_does_not_respond(
    pages, target, serve, tmp_path
):
    environment = ENVIRONMENT | {
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_EXTRA_INDEX_URL": "http://127.0.0.1:1/simple",
        "PIP_INDEX_URL": f"{serve(pages).url}/simple/",
    }

    assert index.fetch_wheel(PIN, target, environment=environment).name == NAME


def test_proxy_of_pip_is_used(pages, target, serve):
    # A proxy gets the whole URL as path, and this one has the files of the index.
    proxy = serve(pages)
    (pages / "http:" / "index.example").mkdir(parents=True)
    (pages / "http:" / "index.example" / "simple").symlink_to(pages / "simple")
    (pages / "http:" / "index.example" / "files").symlink_to(pages / "files")
    environment = ENVIRONMENT | {
        "PIP_INDEX_URL": "http://index.example/simple",
        "PIP_PROXY": proxy.url,
    }

    index.fetch_wheel(PIN, target, environment=environment)

    assert proxy.paths[0][1]["Host"] == "index.example"


def test_certificate_of_pip_is_trusted_and_an_unknown_one_is_not(pages, target, serve, tmp_path):
    certificate, tls = create_tls(tmp_path)
    server = serve(pages, tls)
    environment = ENVIRONMENT | {"PIP_INDEX_URL": f"{server.url}/simple"}

    with pytest.raises(NotFetched, match="certificate verify failed"):
        index.fetch_wheel(PIN, target, environment=environment)
    for trusted in ({"PIP_CERT": str(certificate)}, {"PIP_TRUSTED_HOST": "127.0.0.1"}):
        assert index.fetch_wheel(PIN, target, environment=environment | trusted).name == NAME


def create_tls(folder: Path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.fromtimestamp(time.time(), UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(
        now + timedelta(days=1)
    )
    builder = builder.add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = folder / "certificate.pem"
    signed = builder.sign(key, hashes.SHA256())
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, folder / "key.pem")
    return certificate, context
