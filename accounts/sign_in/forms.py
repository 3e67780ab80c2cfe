"""Forms for ending sessions, and the request body of a back-channel logout."""

from django import forms

from lib.forms import PageForm, TextField


class EndSessionForm(PageForm):
    """The form that ends a session of the user. With ``everywhere``, it ends all except the current one."""

    everywhere = forms.BooleanField(required=False)


class LogoutTokenForm(PageForm):
    """The body of a back-channel logout request (OpenID Connect Back-Channel Logout 1.0, section 2.5)."""

    logout_token = TextField(strip=False)
