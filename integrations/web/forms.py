"""Forms of the page "Git hosts"."""

from lib.forms import OptionField, PageForm, TextField


class ConnectForm(PageForm):
    """A personal access token and, for GitHub Enterprise Server, the name of the host."""

    token = TextField(label="Token", max_length=4_000, strip=False)
    host = TextField(label="Host", max_length=255, required=False)


class DisconnectForm(PageForm):
    """The button that deletes the stored token."""

    intent = OptionField(choices=[("disconnect", "Disconnect")])
