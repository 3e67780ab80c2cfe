"""The sentences with which the proxy refuses a connection."""

from conversations.sandboxes.egress.policy import GATEWAY_NAME, GATEWAY_PORT, Decision, Reason

HEADER = "X-OpenHands-Egress"
"""The header of a refusal; its value is a ``Reason``."""


class Refused(Exception):
    """A destination was refused or is unreachable. The message is one or two sentences for a person."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason, self.sentence = reason, sentence

    @property
    def http_status(self) -> int:
        """403 if a rule refuses the destination, 400 if the request is malformed, else 502."""
        match self.reason:
            case Reason.UNRESOLVABLE | Reason.UNREACHABLE:
                return 502
            case Reason.MALFORMED:
                return 400
        return 403

    @property
    def socks_reply(self) -> int:
        """The reply code of RFC 1928, section 6."""
        codes = {Reason.UNRESOLVABLE: 4, Reason.UNREACHABLE: 5, Reason.MALFORMED: 1}
        return codes.get(self.reason, 2)


def refusal(decision: Decision, host: str, port: int, *, detail: str = "") -> Refused:
    """Return the refusal for a decision. ``detail`` continues the sentence about an unreachable host."""
    match decision.reason:
        case Reason.NOT_LISTED:
            sentence = (
                "This conversation's network profile allows only listed hosts. "
                f"Ask for {host} to be allowed on the conversation's page."
            )
        case Reason.PROFILE_NONE:
            sentence = (
                f"This conversation's network profile allows no connections to the internet, so {host} is refused. "
                "An administrator of the organization can choose another profile in its settings."
            )
        case Reason.DENIED:
            sentence = (
                f"A rule of this conversation refuses {host}. "
                "Ask for the rule to be removed on the conversation's page if the agent needs it."
            )
        case Reason.PRIVATE_ADDRESS:
            sentence = (
                f"{host} is at a private, local or reserved network address, which sandboxes may not call. "
                "An administrator of this server can allow it by name."
            )
        case Reason.UNRESOLVABLE if host == GATEWAY_NAME:
            sentence = (
                f"{GATEWAY_NAME} answers only plain HTTP on port {GATEWAY_PORT}, so port {port} is refused. "
                f"Use a URL that begins with http://{GATEWAY_NAME}/."
                if port != GATEWAY_PORT
                else f"{GATEWAY_NAME} is not available, because this sandbox has no gateway."
            )
        case Reason.UNRESOLVABLE:
            sentence = f"The host name {host} cannot be resolved. Check its spelling."
        case Reason.UNREACHABLE:
            sentence = f"{host} cannot be reached on port {port}: {detail}."
        case _:
            sentence = f"The request is malformed: {detail}."
    return Refused(decision.reason, sentence)


def malformed(sentence: str) -> Refused:
    """Return the refusal of a request that cannot be understood."""
    return Refused(Reason.MALFORMED, sentence)
