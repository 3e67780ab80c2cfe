"""Forms on the page "Git hosts"."""

from lib.forms import OptionField, PageForm, TextField


class ConnectForm(PageForm):
    """The form for a personal access token and, for GitHub Enterprise Server, its host."""

    token = TextField(label="Token", max_length=4_000, strip=False)
    host = TextField(label="Host", max_length=255, required=False)


class DisconnectForm(PageForm):
    """The button that deletes the stored token."""

    intent = OptionField(choices=[("disconnect", "Disconnect")])
