"""The readers refuse odd values with a sentence that says what is taken."""

import os

import pytest
from django.core.exceptions import ImproperlyConfigured

from lib import env

KEY = "a1" * 32


@pytest.fixture
def put(monkeypatch):
    """Sets ``X``, the setting that is read here."""
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
            (env.listing, " a, ,b ,", ["a", "b"]),
            (env.http_url, "https://a.example/base/", "https://a.example/base"),
            (env.keyring, f"k2:{KEY}, k1:{'00' * 32}", {"k2": bytes.fromhex(KEY), "k1": bytes(32)}),
        ],
    )
    def test_takes(self, put, reader, value, expected):
        put(value)

        assert reader("X") == expected

    def test_keys_keep_their_order_since_the_first_one_seals(self, put):
        put(f"k2:{KEY},k1:{'00' * 32}")

        assert list(env.keyring("X")) == ["k2", "k1"]

    @pytest.mark.parametrize(
        ("reader", "value"),
        [
            (env.boolean, "maybe"),
            (env.boolean, "2"),
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
    def test_refuses(self, put, reader, value):
        put(value)

        with pytest.raises(
            ImproperlyConfigured, match=r"^The value of X is not valid( \(.+\))?\. Set it to .+\.$"
        ):
            reader("X")

    def test_a_choice_names_what_there_is(self, put):
        put("xml")

        with pytest.raises(
            ImproperlyConfigured, match=r"not valid \('xml'\). Set it to one of json, text\."
        ):
            env.choice("X", ("json", "text"))

    @pytest.mark.parametrize("name", ["X_KEY", "X_SECRET", "X_PASSWORD", "X_PEPPERS", "X_URL"])
    def test_a_refusal_does_not_repeat_a_secret(self, put, name):
        put("hunter2", name)

        with pytest.raises(ImproperlyConfigured) as refusal:
            env.keyring(name)

        assert "hunter2" not in str(refusal.value)

    def test_paths_are_taken_from_the_project(self, put):
        put("data/x")

        assert env.path("X") == env.BASE_DIR / "data" / "x"

    def test_what_is_required_says_what_it_takes(self, monkeypatch):
        monkeypatch.delenv("X", raising=False)

        with pytest.raises(
            ImproperlyConfigured, match=r"X is not set\. Set it to a whole number from 0"
        ):
            env.integer("X")

    def test_empty_means_unset(self, put):
        put("")

        assert env.integer("X", 7) == 7


class TestDatabase:
    def test_every_part_of_the_address(self, put):
        put("postgresql://us%40er:p%2Fw@db.example:5433/na%20me?sslmode=require")

        assert env.database("X") == {
            "NAME": "na me",
            "USER": "us@er",
            "PASSWORD": "p/w",
            "HOST": "db.example",
            "PORT": "5433",
            "OPTIONS": {"sslmode": "require"},
        }

    def test_a_socket_folder_may_hold_spaces(self, put):
        put("postgresql://postgres@/postgres?host=%2Fa%20b%2Fsockets")

        assert env.database("X")["HOST"] == "/a b/sockets"


class TestFiles:
    def test_a_value_may_be_mounted(self, monkeypatch, tmp_path):
        (tmp_path / "secret").write_text("from a file\n")
        monkeypatch.delenv("X", raising=False)
        monkeypatch.setenv("X_FILE", str(tmp_path / "secret"))

        assert env.text("X") == "from a file"

    def test_both_ways_at_once_are_refused(self, put, monkeypatch):
        put("a")
        monkeypatch.setenv("X_FILE", "/b")

        with pytest.raises(ImproperlyConfigured, match="X and X_FILE are both set"):
            env.text("X")

    def test_a_file_that_is_not_there_is_named(self, monkeypatch, tmp_path):
        monkeypatch.delenv("X", raising=False)
        monkeypatch.setenv("X_FILE", str(tmp_path / "absent"))

        with pytest.raises(
            ImproperlyConfigured, match=r"The file .*absent of X_FILE cannot be read"
        ):
            env.text("X")

    def test_files_fill_gaps_and_never_overrule(self, monkeypatch, tmp_path):
        file = tmp_path / "server.env"
        file.write_text(
            "# note\nexport X_ONE='a b'\nX_TWO=two=2\nX_THREE=file\nX_FOUR=file\nnonsense\n"
        )
        for name in ("X_ONE", "X_TWO", "X_THREE", "X_FOUR"):
            monkeypatch.setenv(name, "")  # so that the end of the test removes them
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

    def test_a_file_that_is_not_there_changes_nothing(self, tmp_path):
        env.load_file(tmp_path / "absent")
