"""Forms of the pages of signing in with a provider, and the message of a back-channel logout."""

from django import forms

from lib.forms import PageForm, TextField


class EndSessionForm(PageForm):
    """Whether to end all other sessions instead of the one that the address names."""

    everywhere = forms.BooleanField(required=False)


class LogoutTokenForm(PageForm):
    """The body of a back-channel logout request (OpenID Connect Back-Channel Logout 1.0, section 2.5)."""

    logout_token = TextField(strip=False)
