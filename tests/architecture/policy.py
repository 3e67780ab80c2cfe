"""Who may call what: one row for every entry point.

A route without a row fails the build, and so does a row without a route. A row says a permission's name (``accounts.permissions``), or

- ``public``: anybody;
- ``signed-in``: anybody with a session; what the page shows is narrowed by ``visible_to``;
- ``staff``: the admin desk, with Django's permission of each model on top;
- ``gateway-token``: the short-lived token of one conversation;
- ``metrics-token``: the holder of ``METRICS_TOKEN``;
- ``logout-token``: an identity provider, by a logout token that it signed;
- ``setup-token``: the holder of an unused setup link.

``ANY`` stands for every method.
"""

POLICY: dict[str, str] = {
    # Operation
    "ANY /alive": "public",
    "ANY /ready": "public",
    "ANY /metrics": "metrics-token",
    "ANY /admin/": "staff",
    # accounts
    "GET /api/v1/schema": "public",
    "GET /api/v1/docs": "public",
    "GET /api/v1/users/me": "account.view",
    "GET /api/v1/auth/csrf": "public",
    "POST /api/v1/auth/sign-in": "public",
    "POST /api/v1/auth/sign-out": "public",
    "GET /api/v1/api-keys": "api_keys.view",
    "POST /api/v1/api-keys": "api_keys.edit",
    "GET /api/v1/api-keys/{id}": "api_keys.view",
    "DELETE /api/v1/api-keys/{id}": "api_keys.edit",
    "GET /api/v1/sessions": "sessions.view",
    "GET /api/v1/sessions/{id}": "sessions.view",
    "DELETE /api/v1/sessions/{id}": "sessions.edit",
    "POST /api/v1/sessions/sign-out-everywhere": "sessions.edit",
    "POST /api/authenticate": "public",
    "POST /api/logout": "public",
    "POST /api/accept_tos": "account.view",
    "POST /api/email": "account.view",
    "PUT /api/email/verify": "account.view",
    "GET /api/email/verified": "public",
    # conversations
    "GET /api/v1/conversations": "conversations.view",
    "POST /api/v1/conversations": "conversations.create",
    "GET /api/v1/conversations/{id}": "conversations.view",
    "PATCH /api/v1/conversations/{id}": "conversations.steer",
    "DELETE /api/v1/conversations/{id}": "conversations.delete",
    "POST /api/v1/conversations/{id}/messages": "conversations.steer",
    "GET /api/v1/conversations/{id}/events": "conversations.view",
    "POST /api/v1/conversations/{id}/interrupt": "conversations.steer",
    "POST /api/v1/conversations/{id}/resume": "conversations.steer",
    "POST /api/v1/conversations/{id}/confirmation": "conversations.steer",
    "GET /api/v1/conversations/{id}/start-tasks": "conversations.view",
    "GET /api/v1/conversations/{id}/files": "files.view",
    "GET /api/v1/conversations/{id}/files/content": "files.view",
    "PUT /api/v1/conversations/{id}/files/content": "files.edit",
    "POST /api/v1/conversations/{id}/files/upload": "files.edit",
    "GET /api/v1/conversations/{id}/archive": "files.view",
    "GET /api/v1/conversations/{id}/git/changes": "files.view",
    "GET /api/v1/conversations/{id}/git/diff": "files.view",
    "WS /ws/v1/conversations/{conversation_id}": "conversations.view",
    # billing
    "GET /api/v1/settings/model-access": "model_access.view",
    "PUT /api/v1/settings/model-access": "model_access.edit",
    "DELETE /api/v1/settings/model-access": "model_access.edit",
    "POST /api/v1/settings/model-access/test": "model_access.edit",
    "POST /api/llm/v1/chat/completions": "gateway-token",
    "GET /api/llm/v1/models": "gateway-token",
    # Pages
    "GET /oidc/{slug}/sign-in": "public",
    "GET /oidc/{slug}/callback": "public",
    "POST /oidc/{slug}/back-channel-logout": "logout-token",
    "GET /oauth/keycloak/callback": "public",
    "GET /oauth/keycloak/offline/callback": "public",
    "GET /oauth/github/callback": "public",
    "GET /accept-tos": "signed-in",
    "POST /accept-tos": "signed-in",
    "GET /settings/email/{link}": "signed-in",
    "GET /settings/sign-in": "signed-in",
    "POST /settings/sign-in/{slug}/connect": "signed-in",
    "POST /settings/sign-in/{slug}/disconnect": "signed-in",
    "POST /settings/sessions/{session_id}/end": "signed-in",
    "GET /sign-in": "public",
    "POST /sign-in": "public",
    "POST /sign-out": "public",
    "GET /setup/{token}": "setup-token",
    "POST /setup/{token}": "setup-token",
    "ANY /settings": "signed-in",
    "GET /settings/api-keys": "signed-in",
    "POST /settings/api-keys": "signed-in",
    "POST /settings/api-keys/{key_id}/revoke": "signed-in",
    "GET /settings/model": "signed-in",
    "POST /settings/model": "signed-in",
    "GET /": "signed-in",
    "POST /": "signed-in",
    "GET /conversations/{conversation_id}": "signed-in",
    "POST /conversations/{conversation_id}/{action}": "signed-in",
}
WORDS = {
    *("public", "signed-in", "staff", "gateway-token", "metrics-token", "setup-token"),
    "logout-token",
}
