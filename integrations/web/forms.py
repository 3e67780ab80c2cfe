"""Forms of the page of Git hosts."""

from lib.forms import OptionField, PageForm, TextField


class ConnectForm(PageForm):
    """A personal access token and, for GitHub Enterprise, the host."""

    token = TextField(label="Token", max_length=4_000, strip=False)
    host = TextField(label="Host", max_length=255, required=False)


class DisconnectForm(PageForm):
    """The button that forgets the token."""

    intent = OptionField(choices=[("disconnect", "Disconnect")])
