"""The check of packets before python-socketio reads them."""

import pytest

from compat.v0.packets import BadPacket, PacketCheck


@pytest.fixture
def check():
    """The check of a connection whose client has connected to the namespace."""
    check = PacketCheck()
    check.check("40")
    return check


@pytest.mark.parametrize(
    "packet",
    [
        *("1", "2", "2probe", "3", "3probe", "5", "6", "41", "41/,"),
        *(
            '42["oh_user_action",{"action":"message"}]',
            '42["x"]',
            '4217["x",1,[],null]',
            '42/,["x"]',
        ),
        *("43[]", "437[1]", "40/other,", '40/other,{"token":"x"}'),
        '42["x","\\ud800"]',
    ],
)
def test_packet_of_a_client_is_passed_on(check, packet):
    check.check(packet)


@pytest.mark.parametrize("packet", ["40", "40{}", '40{"token":"x"}', "40/,", "40/?x=y,{}"])
def test_first_connect_is_passed_on(packet):
    PacketCheck().check(packet)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        *((packet, "text packet of Socket.IO") for packet in ("", "x", "0", "7", "²", "b!!!", "4", "4x", "4-", "44{}")),
        *((packet, "text packet of Socket.IO") for packet in ("451-[]", "460-[]", "47", "4[1]", "4²")),
        *((packet, "not valid JSON") for packet in ("42[", "42x", "42[}", "40{", '42["x",NaN x]', "42" + "9" * 16 + "[]", "40/" + "n" * 200)),
        ('42["x",' + "9" * 101 + "]", "not valid JSON"),
        ("42" + "[" * 100_000, "too deeply"),
        *((packet, "must be an array") for packet in ("42", "421", "42{}", "42null", "43", "43{}", '42"x"')),
        *((packet, "its name") for packet in ("42[]", "42[1]", "42[null]", "42[[]]")),
        *((f'42["{name}"]', "reserved") for name in ("connect", "disconnect", "connect_error", "disconnecting")),
        *((packet, "already connected") for packet in ("40", "40{}", "40/,")),
        *((packet, "only the namespace /") for packet in ('42/x,["a"]', "41/x", "43/x,[]")),
    ],
)  # fmt: skip
def test_packet_that_the_library_cannot_read_is_refused(check, packet, reason):
    with pytest.raises(BadPacket, match=reason):
        check.check(packet)


@pytest.mark.parametrize("packet", ['42["x"]', "41", "43[]"])
def test_packet_before_the_connect_is_refused(packet):
    with pytest.raises(BadPacket, match="CONNECT first"):
        PacketCheck().check(packet)


@pytest.mark.parametrize("packet", ["40[]", "40true", '40"x"'])
def test_connect_with_other_data_than_an_object_is_refused(packet):
    with pytest.raises(BadPacket, match="must be an object"):
        PacketCheck().check(packet)


def test_client_may_connect_again_after_its_disconnect(check):
    check.check("41")
    check.check("40")
