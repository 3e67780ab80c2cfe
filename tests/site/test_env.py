"""The functions that read settings: the values that they accept, and their errors for other values."""

import os

import pytest
from django.core.exceptions import ImproperlyConfigured

from conversations.sandboxes.egress.hosts import HostSet
from lib import env

KEY = "a1" * 32


@pytest.fixture
def put(monkeypatch):
    """Return a function that sets the environment variable ``X``, or the one that is named."""
    monkeypatch.delenv("X_FILE", raising=False)
    return lambda value, name="X": monkeypatch.setenv(name, value)


class TestReaders:
    @pytest.mark.parametrize(
        ("reader", "value", "expected"),
        [
            (env.text, " a ", " a "),
            (env.boolean, "Yes", True),
            (env.boolean, "off", False),
            (env.integer, "12", 12),
            (env.private_addresses, "single-user", "single-user"),
            (env.private_addresses, "Allowed", "allowed"),
            (env.private_addresses, "TRUE", True),
            (env.private_addresses, "no", False),
            (env.listing, " a, ,b ,", ["a", "b"]),
            (env.ports, " 11434, 1234,11434,", [11434, 1234]),
            (env.ports, "none", []),
            (env.http_url, "https://a.example/base/", "https://a.example/base"),
            (env.keyring, f"k2:{KEY}, k1:{'00' * 32}", {"k2": bytes.fromhex(KEY), "k1": bytes(32)}),
        ],
    )
    def test_valid_value_is_parsed(self, put, reader, value, expected):
        put(value)

        assert reader("X") == expected

    def test_keyring_keeps_the_order_of_its_keys(self, put):
        # The first key encrypts; the others only decrypt.
        put(f"k2:{KEY},k1:{'00' * 32}")

        assert list(env.keyring("X")) == ["k2", "k1"]

    @pytest.mark.parametrize(
        ("reader", "value"),
        [
            (env.boolean, "maybe"),
            (env.boolean, "2"),
            (env.private_addresses, "team"),
            (env.ports, "0"),
            (env.ports, "65536"),
            (env.ports, "http"),
            (env.integer, "ten"),
            (env.integer, "-1"),
            (env.integer, "99999999999"),
            (env.integer, "1.5"),
            (env.http_url, "example.com"),
            (env.http_url, "ftp://example.com"),
            (env.http_url, "https://"),
            (env.http_url, "https://a.example/?q=1"),
            (env.keyring, KEY),
            (env.keyring, "k1:short"),
            (env.keyring, f"k1:{KEY},k1:{KEY}"),
            (env.keyring, f"k 1:{KEY}"),
            (env.keyring, ","),
            (env.database, "mysql://a/b"),
            (env.database, "postgresql://a"),
            (env.database, "postgresql://a:port/b"),
        ],
    )
    def test_invalid_value_raises_with_the_expected_format(self, put, reader, value):
        put(value)

        with pytest.raises(
            ImproperlyConfigured, match=r"^The value of X is not valid( \(.+\))?\. Set it to .+\.$"
        ):
            reader("X")

    def test_invalid_host_list_raises_with_the_fault_of_its_check(self, put):
        put("pypi.org, *.Example.com")
        assert env.checked("X", [], lambda hosts: HostSet.of(hosts).patterns) == [
            "pypi.org",
            "*.example.com",
        ]
        put("pypi.org,10.0.0.0/8")

        with pytest.raises(
            ImproperlyConfigured,
            match=r"^The value of X is not valid: “10\.0\.0\.0/8” is a block of addresses",
        ):
            env.checked("X", [], lambda hosts: HostSet.of(hosts).patterns)

    def test_invalid_choice_raises_with_the_valid_choices(self, put):
        put("xml")

        with pytest.raises(
            ImproperlyConfigured, match=r"not valid \('xml'\). Set it to one of json, text\."
        ):
            env.choice("X", ("json", "text"))

    @pytest.mark.parametrize("name", ["X_KEY", "X_SECRET", "X_PASSWORD", "X_PEPPERS", "X_URL"])
    def test_error_about_a_secret_does_not_contain_its_value(self, put, name):
        put("hunter2", name)

        with pytest.raises(ImproperlyConfigured) as error:
            env.keyring(name)

        assert "hunter2" not in str(error.value)

    def test_relative_path_starts_at_the_project_folder(self, put):
        put("data/x")

        assert env.path("X") == env.BASE_DIR / "data" / "x"

    def test_missing_required_setting_raises_with_the_expected_format(self, monkeypatch):
        monkeypatch.delenv("X", raising=False)

        with pytest.raises(
            ImproperlyConfigured, match=r"X is not set\. Set it to a whole number from 0"
        ):
            env.integer("X")

    def test_empty_value_counts_as_unset(self, put):
        put("")

        assert env.integer("X", 7) == 7


class TestDatabase:
    def test_address_is_split_into_its_parts(self, put):
        put("postgresql://us%40er:p%2Fw@db.example:5433/na%20me?sslmode=require")

        assert env.database("X") == {
            "NAME": "na me",
            "USER": "us@er",
            "PASSWORD": "p/w",
            "HOST": "db.example",
            "PORT": "5433",
            "OPTIONS": {"sslmode": "require"},
        }

    def test_socket_folder_may_contain_spaces(self, put):
        put("postgresql://postgres@/postgres?host=%2Fa%20b%2Fsockets")

        assert env.database("X")["HOST"] == "/a b/sockets"


class TestFiles:
    def test_value_is_read_from_a_mounted_file(self, monkeypatch, tmp_path):
        (tmp_path / "secret").write_text("from a file\n")
        monkeypatch.delenv("X", raising=False)
        monkeypatch.setenv("X_FILE", str(tmp_path / "secret"))

        assert env.text("X") == "from a file"

    def test_value_and_file_together_raise(self, put, monkeypatch):
        put("a")
        monkeypatch.setenv("X_FILE", "/b")

        with pytest.raises(ImproperlyConfigured, match="X and X_FILE are both set"):
            env.text("X")

    def test_missing_mounted_file_raises_with_its_path(self, monkeypatch, tmp_path):
        monkeypatch.delenv("X", raising=False)
        monkeypatch.setenv("X_FILE", str(tmp_path / "absent"))

        with pytest.raises(
            ImproperlyConfigured, match=r"The file .*absent of X_FILE cannot be read"
        ):
            env.text("X")

    def test_env_file_sets_only_unset_names(self, monkeypatch, tmp_path):
        file = tmp_path / "server.env"
        file.write_text(
            "# note\nexport X_ONE='a b'\nX_TWO=two=2\nX_THREE=file\nX_FOUR=file\nnonsense\n"
        )
        for name in ("X_ONE", "X_TWO", "X_THREE", "X_FOUR"):
            monkeypatch.setenv(name, "")  # so that monkeypatch removes the name after the test
            monkeypatch.delenv(name)
        monkeypatch.setenv("X_THREE", "environment")
        monkeypatch.setenv("X_FOUR_FILE", "/mounted")

        env.load_file(file)

        assert (env.text("X_ONE"), env.text("X_TWO"), env.text("X_THREE")) == (
            "a b",
            "two=2",
            "environment",
        )
        assert "X_FOUR" not in os.environ

    def test_missing_env_file_is_ignored(self, tmp_path):
        env.load_file(tmp_path / "absent")
