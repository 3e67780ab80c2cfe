"""The Django settings, read from the environment through ``lib.env``. ``.env.example`` documents every variable.

All installations share this one module. A laptop and a cluster differ only in their environment variables.
"""

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from conversations.sandboxes.egress.hosts import HostSet
from conversations.sandboxes.egress.policy import Profile
from lib import env

BASE_DIR = env.BASE_DIR
env.load_file(BASE_DIR / ".env")
DATA_DIR: Path = env.path("DATA_DIR", BASE_DIR / "data")
env.load_file(DATA_DIR / "server.env")

# --- The site -------------------------------------------------------------------

DEBUG = env.boolean("DEBUG", False)
SECRET_KEY = env.text("SECRET_KEY")
SECRET_KEY_FALLBACKS = env.listing("SECRET_KEY_FALLBACKS", [])
PUBLIC_URL: str = env.http_url("PUBLIC_URL", "http://127.0.0.1:8000")
_public = urlsplit(PUBLIC_URL)
ALLOWED_HOSTS = env.listing("ALLOWED_HOSTS", [_public.hostname])
ALLOWED_ORIGINS: list[str] = env.listing(
    "ALLOWED_ORIGINS", [f"{_public.scheme}://{_public.netloc}"]
)
"""Exact origins (scheme, host and port) whose pages may open WebSockets and submit forms."""
CSRF_TRUSTED_ORIGINS = ALLOWED_ORIGINS
IS_HTTPS = _public.scheme == "https"

ENCRYPTION_KEYS: dict[str, bytes] = env.keyring("ENCRYPTION_KEYS")
TOKEN_PEPPERS: dict[str, bytes] = env.keyring("TOKEN_PEPPERS")

VERSION: str = env.text("OH_VERSION", env.project_version())
"""The version of this build, shown in the list of nodes."""

ROOT_URLCONF = "openhands_site.urls"
ASGI_APPLICATION = "openhands_site.asgi.application"
WEB_CLIENT_DIR: Path | None = env.path("OH_WEB_CLIENT_DIR", None)
"""The folder of a built OpenHands web client that is served in place of this server's own pages."""
# Only `runserver` needs Daphne. It imports Twisted, which costs every process 15 MB and slows its start.
_runs_daphne = "runserver" in sys.argv[1:2]
INSTALLED_APPS = [
    *(["daphne"] if _runs_daphne else []),
    "openhands_site",
    "accounts",
    "billing",
    "conversations",
    "integrations",
    "compat",
    "openhands_site.admin_site.SecondFactorAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "corsheaders",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "procrastinate.contrib.django",
    "django_prometheus",
]
MIDDLEWARE = [
    "openhands_site.middleware.streaming.PieceByPiece",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "openhands_site.middleware.headers.SecurityHeaders",
    "openhands_site.middleware.access_log.RequestIdAndAccessLog",
    "openhands_site.static_files.StaticFiles",
    "openhands_site.middleware.lazy.Cors",
    "openhands_site.middleware.compression.Compression",
    "openhands_site.middleware.headers.CacheControl",
    "openhands_site.middleware.web_client.WebClient",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "openhands_site.middleware.errors.ProblemDetails",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "accounts.sign_in.browser_sessions.SessionUserMiddleware",
    "accounts.sign_in.browser_sessions.AuditActorMiddleware",
    "openhands_site.middleware.maintenance.MaintenanceMode",
    "openhands_site.middleware.rate_limits.RateLimits",
    "openhands_site.middleware.lazy.Messages",
]
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "builtins": ["lib.form_tags", "openhands_site.module_tags"],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "openhands_site.formats"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DATA_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "openhands_site.static_files.HashedFiles"},
}
WHITENOISE_USE_FINDERS = True

# --- Browsers -------------------------------------------------------------------

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = env.integer("HSTS_SECONDS", 31_536_000 if IS_HTTPS else 0)
SECURE_HSTS_INCLUDE_SUBDOMAINS = IS_HTTPS
SECURE_HSTS_PRELOAD = IS_HTTPS
_trusts_proto_header = env.boolean("TRUST_X_FORWARDED_PROTO", False)
if _trusts_proto_header:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# Without that header every request looks like plain HTTP, and a redirect to HTTPS would loop. The proxy that
# terminates TLS must then redirect.
SECURE_SSL_REDIRECT = IS_HTTPS and _trusts_proto_header
SECURE_REDIRECT_EXEMPT = [r"^(alive|ready|health|server_info|metrics)$", r"^api/(llm|sandbox)/"]
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES", [])
"""The IP addresses and networks of the proxies whose ``X-Forwarded-For`` header is trusted."""
TRUST_FORWARDED = env.boolean("TRUST_FORWARDED", False)
"""Whether to read the header ``Forwarded`` (RFC 7239) of trusted proxies instead of ``X-Forwarded-For``."""
CORS_ALLOWED_ORIGINS = env.listing("CORS_ORIGINS", [])
"""Exact origins whose pages may call the API with an API key. Their requests never carry cookies."""
CORS_URLS_REGEX = r"^/api/"
CORS_ALLOW_CREDENTIALS = False
CORS_ALLOW_HEADERS = (
    "accept",
    "authorization",
    "content-type",
    "idempotency-key",
    "x-api-key",
    "x-request-id",
)
CORS_EXPOSE_HEADERS = (
    "retry-after",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
)
X_FRAME_OPTIONS = "DENY"
SESSION_ENGINE = "lib.sessions"
SESSION_COOKIE_NAME = "__Host-sessionid" if IS_HTTPS else "sessionid"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = env.integer("SESSION_SECONDS", 14 * 86_400, low=300)
CSRF_COOKIE_NAME = "XSRF-TOKEN"
CSRF_HEADER_NAME = "HTTP_X_XSRF_TOKEN"
CSRF_FAILURE_VIEW = "openhands_site.views.csrf_failure"

# --- Users and sign-in ----------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
SILENCED_SYSTEM_CHECKS = [
    "auth.W004",  # a constraint makes the e-mail address unique, ignoring case
    "security.W008",  # without TRUST_X_FORWARDED_PROTO the proxy redirects, not SECURE_SSL_REDIRECT
]
AUTHENTICATION_BACKENDS = [
    "accounts.sign_in.authentication.EmailBackend",
    "accounts.sign_in.backend.ProviderBackend",
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "sign-in"
SETUP_LINK_SECONDS = env.integer("SETUP_LINK_SECONDS", 24 * 3_600, low=60)
API_KEY_MAX_DAYS = env.integer("API_KEY_MAX_DAYS", 365, low=1)
API_KEYS_PER_USER = env.integer("API_KEYS_PER_USER", 100, low=1)
"""The maximum number of active API keys per user."""
ORGANIZATIONS_PER_USER = env.integer("ORGANIZATIONS_PER_USER", 50, low=0)
"""The maximum number of team organizations that one user may own."""
STAFF_SECOND_FACTOR = env.boolean("STAFF_SECOND_FACTOR", IS_HTTPS)
"""Whether the admin site requires a session with a second factor or with a sign-in by an identity provider."""
STAFF_REASON_SECONDS = env.integer("STAFF_REASON_SECONDS", 1_800, low=60, high=86_400)
"""Seconds for which a reason that staff entered opens the private content of one conversation on the admin site."""

APP_MODE = env.choice("OH_APP_MODE", ("saas", "oss"), "saas")
"""The mode of the OpenHands web client: ``saas`` has sign-in and organizations, ``oss`` is for a single user."""
KEYCLOAK_IDP_HINTS: list[str] = env.listing("KEYCLOAK_IDP_HINTS", ["enterprise_sso"])
"""The sign-in buttons of the OpenHands web client. Each names an identity provider of the Keycloak realm."""
OIDC_TIMEOUT_SECONDS = env.integer("OIDC_TIMEOUT_SECONDS", 5, low=1, high=30)
OIDC_GRACE_SECONDS = env.integer("OIDC_GRACE_SECONDS", 3_600, low=600)
"""Seconds for which an identity provider may be unreachable before the sessions of its users are paused."""
_keycloak = {
    "slug": "keycloak",
    "kind": "keycloak",
    "name": env.text("KEYCLOAK_NAME", "Keycloak"),
    "issuer": env.http_url("KEYCLOAK_ISSUER", ""),
    "client_id": env.text("KEYCLOAK_CLIENT_ID", ""),
    "client_secret": env.text("KEYCLOAK_CLIENT_SECRET", ""),
    "audience": env.text("KEYCLOAK_AUDIENCE", ""),
    "bearer_clients": env.listing("KEYCLOAK_BEARER_CLIENTS", []),
}
_generic = {
    "slug": "oidc",
    "kind": "generic",
    "name": env.text("OIDC_NAME", "Single sign-on"),
    "issuer": env.text("OIDC_ISSUER", ""),  # compared exactly: the slash counts
    "client_id": env.text("OIDC_CLIENT_ID", ""),
    "client_secret": env.text("OIDC_CLIENT_SECRET", ""),
    "trusts_email": env.boolean("OIDC_TRUSTS_EMAIL", False),
}
OIDC_PRESETS: list[dict[str, Any]] = [
    preset for preset in (_keycloak, _generic) if preset["issuer"]
]
"""Identity providers configured in the environment. More can be added on the admin site."""
TERMS_VERSION: str = env.text("TERMS_VERSION", "")
"""The version of the terms of service that users must accept. Empty if there are no terms."""

# --- Mail -----------------------------------------------------------------------

EMAIL_HOST: str = env.text("EMAIL_HOST", "")
"""The mail server. If it is empty, no mail is sent and links are shown to the user who creates them."""
EMAIL_PORT = env.integer("EMAIL_PORT", 587, low=1, high=65_535)
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = env.boolean("EMAIL_USE_TLS", True)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", f"no-reply@{_public.hostname}")

# --- PostgreSQL and Redis -------------------------------------------------------

DATABASE_POOL_SIZE = env.integer("DATABASE_POOL_SIZE", 10, low=0, high=500)
"""The size of each process's connection pool. 0 disables the pool."""
DATABASE_KEEP_SECONDS = env.integer("DATABASE_KEEP_SECONDS", 300)
"""Seconds for which a web thread keeps its own database connection. With 0, each request uses the pool."""
WEB_THREADS = env.integer("WEB_THREADS", 8, low=1, high=200)
"""The number of plain requests that one process handles in parallel."""
DATABASE_IDLE_TRANSACTION_TIMEOUT_MS = env.integer(
    "DATABASE_IDLE_TRANSACTION_TIMEOUT_MS", 60_000, low=0
)
"""PostgreSQL rolls back transactions that send no statement for this many milliseconds. 0 means no limit."""
_database = env.database()
# Without a limit of its own, libpq waits as long as TCP for a host that does not answer.
_database["OPTIONS"].setdefault("connect_timeout", "10")
_database["OPTIONS"] |= {
    "application_name": os.environ.get("OH_ROLE", Path(sys.argv[0]).name)[:60],
    "options": " ".join(
        f"-c {name}={milliseconds}"
        for name, milliseconds in (
            ("statement_timeout", env.integer("DATABASE_STATEMENT_TIMEOUT_MS", 30_000)),
            ("lock_timeout", env.integer("DATABASE_LOCK_TIMEOUT_MS", 10_000)),
            ("idle_in_transaction_session_timeout", DATABASE_IDLE_TRANSACTION_TIMEOUT_MS),
        )
    ),
}
# Only lib.prepared uses prepared statements: Django's own cursors bind parameters on the client. psycopg prepares
# a statement after two executions. A pooler that switches connections between transactions may not support it.
_database["OPTIONS"]["prepare_threshold"] = 2 if env.boolean("DATABASE_PREPARE", True) else None
if DATABASE_POOL_SIZE:
    _database["OPTIONS"]["pool"] = {
        "min_size": 1,
        "max_size": DATABASE_POOL_SIZE,
        "timeout": 10,
        "max_idle": 60,
    }
DATABASES: dict[str, Any] = {
    "default": {"ENGINE": "django_prometheus.db.backends.postgresql", "CONN_MAX_AGE": 0} | _database
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
REDIS_URL: str = env.redis_url("REDIS_URL")
REDIS_TIMEOUT_MS: int = env.integer("REDIS_TIMEOUT_MS", 500, low=50, high=10_000)
_redis_timeout_seconds = REDIS_TIMEOUT_MS / 1000
NODE_TTL_SECONDS: int = env.integer("NODE_TTL_SECONDS", 15, low=3, high=300)
NODE_ADDRESS: str = env.text("NODE_ADDRESS", "")
"""The address shown for this process in the list of nodes, if it differs from the address it listens on."""
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "oh",
        "OPTIONS": {
            "serializer": "lib.cache.JSONSerializer",
            "socket_timeout": _redis_timeout_seconds,
            "socket_connect_timeout": _redis_timeout_seconds,
        },
    }
}
REDIS_SHARDS: list[str] = env.redis_urls("REDIS_SHARDS", [REDIS_URL])
"""Redis servers for wake-ups. The name of a group selects the server, so all processes need the same ordered list."""
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "lib.channel_layer.ChannelLayer",
        "CONFIG": {"hosts": REDIS_SHARDS, "prefix": "oh"},
    }
}

WORKER_STALLED_SECONDS = env.integer("WORKER_STALLED_SECONDS", 8, low=4, high=600)
"""A worker without a heartbeat for this time counts as dead, and its jobs run again."""
WORKER_CONCURRENCY = env.integer("WORKER_CONCURRENCY", 16, low=1, high=200)
"""The number of short jobs, such as stops of sandboxes, that one worker runs in parallel."""
WORKER_URGENT = env.integer("WORKER_URGENT", 32, low=4, high=200)
"""The number of interruptions and answers that one worker sends to engines in parallel."""
WORKER_WAITING = env.integer("WORKER_WAITING", 200, low=8, high=2_000)
"""The number of jobs that wait for engines in one worker: starts, deliveries and runs. Each uses a thread."""
PROCRASTINATE_WORKER_DEFAULTS = {
    "update_heartbeat_interval": 2.0,
    "stalled_worker_timeout": float(WORKER_STALLED_SECONDS),
    "shutdown_graceful_timeout": 15.0,
    "delete_jobs": "successful",
}

# --- API ------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.sign_in.authentication.AccessTokenAuthentication",
        "accounts.sign_in.authentication.ApiKeyAuthentication",
        "accounts.sign_in.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.api.permissions.HasPermission"],
    "DEFAULT_PARSER_CLASSES": ["lib.api.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["lib.api.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "lib.api.Negotiation",
    "DEFAULT_METADATA_CLASS": "lib.api.Metadata",
    "DEFAULT_PAGINATION_CLASS": "lib.pages.CursorPages",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "lib.api.problem_response",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "DEFAULT_VERSIONING_CLASS": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Agent Server",
    "VERSION": "1",
    "DESCRIPTION": "Start conversations with coding agents, follow them, steer them and read their history.",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "TAGS": [
        {
            "name": "conversations",
            "description": "Start, follow, steer, search, fork and share conversations.",
        },
        {"name": "options", "description": "Models and other options for a new conversation."},
        {"name": "api-keys", "description": "API keys for programs."},
        {
            "name": "secrets",
            "description": "Secret values for agents. Their values are never returned.",
        },
        {"name": "settings", "description": "Settings of your agents and of the model they use."},
        {"name": "users", "description": "Your account and your permissions."},
        {
            "name": "organizations",
            "description": "Organizations, members, invitations and service accounts.",
        },
        {"name": "integrations", "description": "Git hosts and repositories."},
        {"name": "mcp", "description": "This server's MCP tools for other agents."},
        {"name": "auth", "description": "Sign-in, sessions and devices."},
        {"name": "usage", "description": "Model calls and their cost."},
        {"name": "audit", "description": "The audit log."},
        {"name": "operation", "description": "The running processes of this installation."},
        {"name": "shared", "description": "Conversations shared by a public link."},
        {"name": "compat", "description": "Routes for existing OpenHands clients."},
    ],
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "openhands_site.openapi.add_problems",
        "compat.deprecations.mark_deprecated_operations",
    ],
    "ENUM_NAME_OVERRIDES": {
        "AppMode": ["saas", "oss"],
        "MembershipRole": "accounts.models.Membership.Role",
        "ServiceAccountRole": "accounts.services.service_accounts.ROLES",
        "GitProvider": "integrations.api.v1.serializers.PROVIDERS",
        "ConversationStatus": "conversations.models.Conversation.Status",
        "StartPhase": "conversations.models.StartTask.Phase",
        "V1SandboxStatus": "compat.v1.serializers.SANDBOX_STATUSES",
        "ExecutionStatus": "conversations.models.Conversation.ExecutionStatus",
        "NetworkProfile": "conversations.api.v1.egress.PROFILES",
        "V0ConversationStatus": "compat.v0.serializers.STATUSES",
    },
}
BODY_MAX_BYTES = env.integer("BODY_MAX_BYTES", 2_621_440, low=1024)
UPLOAD_MAX_BYTES = env.integer("UPLOAD_MAX_BYTES", 104_857_600, low=1024)
ARCHIVE_MAX_BYTES = env.integer("ARCHIVE_MAX_BYTES", 2_147_483_647, low=1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = BODY_MAX_BYTES
HEADER_MAX_COUNT = env.integer("HEADER_MAX_COUNT", 100, low=10, high=1_000)
HEADER_MAX_BYTES = env.integer("HEADER_MAX_BYTES", 32_768, low=1_024)
HEAD_SECONDS = env.integer("HEAD_SECONDS", 15, low=1, high=300)
"""Seconds in which the URL and headers of a request must arrive."""
BODY_SECONDS = env.integer("BODY_SECONDS", 30, low=1, high=600)
"""Seconds in which a body must arrive, plus one second for each ``BODY_BYTES_PER_SECOND``."""
BODY_BYTES_PER_SECOND = env.integer("BODY_BYTES_PER_SECOND", 4_096, low=1)
ANONYMOUS_BODY_MAX_BYTES = env.integer("ANONYMOUS_BODY_MAX_BYTES", 65_536, low=1_024)
"""The maximum size of a body without a valid key or session. Checked before the body is read."""
OPEN_BODIES_PER_ADDRESS = env.integer("OPEN_BODIES_PER_ADDRESS", 100, low=1)
"""The maximum number of requests of a network address whose body is still arriving, per process."""
BODIES_DISK_MAX_BYTES = env.integer("BODIES_DISK_MAX_BYTES", 2_147_483_647, low=1_048_576)
"""The maximum size of all bodies in temporary files of a process. One address may use half of it."""
JSON_MAX_DEPTH = env.integer("JSON_MAX_DEPTH", 64, low=4, high=500)

# --- Realtime -------------------------------------------------------------------

EVENT_MAX_BYTES = env.integer("EVENT_MAX_BYTES", 16_777_216, low=65_536)
PUBLISHED_EVENT_MAX_BYTES = env.integer("PUBLISHED_EVENT_MAX_BYTES", 1_048_576, low=1_024)
"""The maximum size of an event that another program publishes over gRPC."""
PUBLISHED_EVENTS_PER_RUN = env.integer("PUBLISHED_EVENTS_PER_RUN", 1_000_000, low=0)
"""The maximum number of events in one external run. 0 means no limit."""
PUBLISHED_KILOBYTES_PER_MINUTE = env.integer("PUBLISHED_KILOBYTES_PER_MINUTE", 65_536, low=0)
PUBLISHED_KILOBYTES_PER_DAY = env.integer("PUBLISHED_KILOBYTES_PER_DAY", 10_485_760, low=0)
"""How much all programs of an organization may publish. 0 means no limit."""
HUB_RING_BYTES = env.integer("HUB_RING_BYTES", 1_048_576, low=4_096)
HUB_POLL_SECONDS = env.integer("HUB_POLL_SECONDS", 3, low=1, high=300)
SOCKET_BUFFER_BYTES = env.integer("SOCKET_BUFFER_BYTES", 1_048_576, low=4_096)
SOCKET_RECHECK_SECONDS = env.integer("SOCKET_RECHECK_SECONDS", 30, low=1, high=60)
SOCKET_PING_SECONDS = env.integer("SOCKET_PING_SECONDS", 20, low=1, high=45)
STREAMS_PER_USER = env.integer("STREAMS_PER_USER", 200, low=0)
"""The maximum number of open sockets, event streams, long polls and gRPC streams of a user per process. 0: no limit."""
SOCKETS_PER_ADDRESS = env.integer("SOCKETS_PER_ADDRESS", 100, low=0)
"""The maximum number of sockets of a network address that have not signed in yet, per process. 0: no limit."""

PUBLIC_LINKS = env.boolean("PUBLIC_LINKS", True)
"""Whether users may share conversations by public link. If it is off, existing links do not work either."""

# --- Sandboxes and the conversation manager -------------------------------------

SANDBOX_PROVIDER = env.choice(
    "SANDBOX_PROVIDER",
    ("bubblewrap", "seatbelt", "process"),
    {"linux": "bubblewrap", "darwin": "seatbelt"}.get(sys.platform, "process"),
)
ALLOW_PROCESS_SANDBOX = env.boolean("ALLOW_PROCESS_SANDBOX", False)
"""The process provider does not isolate agents, so it must be allowed explicitly."""
SANDBOX_MEMORY_MEGABYTES = env.integer("SANDBOX_MEMORY_MEGABYTES", 4_096)
SANDBOX_MAX_PROCESSES = env.integer("SANDBOX_MAX_PROCESSES", 512)
SANDBOX_DISK_MEGABYTES = env.integer("SANDBOX_DISK_MEGABYTES", 10_240)
"""The limits of each sandbox; 0 means no limit. Threads count as processes."""
SANDBOX_READ_ONLY_PATHS = [Path(path) for path in env.listing("SANDBOX_READ_ONLY_PATHS", [])]
"""Folders of the machine, besides the system's, that agents may read, for example with compilers."""
SANDBOX_ALLOW_OPEN_NETWORK = env.boolean("SANDBOX_ALLOW_OPEN_NETWORK", False)
"""Whether administrators of organizations may choose the network profile ``open``, which reaches private networks."""
SANDBOX_DIR: Path = env.path("SANDBOX_DIR", DATA_DIR / "sandboxes")
SANDBOX_START_SECONDS = env.integer("SANDBOX_START_SECONDS", 120, low=5, high=3_600)
SANDBOX_IDLE_SECONDS = env.integer("SANDBOX_IDLE_SECONDS", 1_800, low=60)
SANDBOX_MAX_RUNNING = env.integer("SANDBOX_MAX_RUNNING", 8, low=1)
"""The maximum number of running sandboxes per organization. Further starts wait."""
SANDBOX_EGRESS = env.choice("SANDBOX_EGRESS", tuple(profile.value for profile in Profile), "public")
"""The network profile of sandboxes in organizations that have chosen none."""
SANDBOX_EGRESS_HOSTS: list[str] = env.checked(
    "SANDBOX_EGRESS_HOSTS", [], lambda hosts: HostSet.of(hosts).patterns
)
"""Hosts that the profile ``list`` allows in all organizations."""
SANDBOX_PRIVATE_HOSTS: list[str] = env.checked(
    "SANDBOX_PRIVATE_HOSTS", [], lambda hosts: HostSet.of(hosts, blocks=True).patterns
)
"""Names, patterns, addresses and CIDR blocks that sandboxes may reach although they are private."""
ENGINE_DIR: Path = env.path("ENGINE_DIR", DATA_DIR / "engine")
"""The engine's own virtual environment."""
ENGINE_PYTHON: str = env.text("OH_ENGINE_PYTHON", os.environ.get("AGENT_PYTHON", ""))
LEASE_SECONDS = env.integer("LEASE_SECONDS", 6, low=2, high=60)
MANAGER_MAX_CONVERSATIONS = env.integer("MANAGER_MAX_CONVERSATIONS", 1_000, low=1)

# --- Models ---------------------------------------------------------------------

GATEWAY_URL: str = env.http_url("GATEWAY_URL", PUBLIC_URL)
"""The URL at which sandboxes reach this server."""
GATEWAY_TOKEN_SECONDS = env.integer("GATEWAY_TOKEN_SECONDS", 3_600, low=60)
GATEWAY_TIMEOUT_SECONDS = env.integer("GATEWAY_TIMEOUT_SECONDS", 600, low=5)
GATEWAY_BODY_MAX_BYTES = env.integer("GATEWAY_BODY_MAX_BYTES", 33_554_432, low=65_536)
"""Requests to models are large because they contain the whole history and images."""
GATEWAY_MAX_CALLS = env.integer("GATEWAY_MAX_CALLS", 20, low=1, high=10_000)
"""The maximum number of model calls that one conversation makes at the same time, with all of its tokens."""
DEMO_PIECE_MILLISECONDS = env.integer("DEMO_PIECE_MILLISECONDS", 20, high=1_000)
"""The pause of the demo model between the pieces of its response."""
UPSTREAM_ALLOW_PRIVATE: bool | str = env.private_addresses("UPSTREAM_ALLOW_PRIVATE", DEBUG)
"""Whether users may configure model servers and Git hosts at private addresses, such as an Ollama on this machine.

``single-user`` means: while at most one active person has an account. ``allowed`` means: only model servers on this
machine that an administrator has allowed. These can also be called with ``single-user`` and several people.
"""
MODEL_SERVER_PORTS: list[int] = env.ports(
    "MODEL_SERVER_PORTS", [11434, 1234, 8080, 8000, 1337, 4000, 5000, 30000]
)
"""The ports of this machine at which the model settings of administrators and ``doctor`` look for model servers.

The defaults of Ollama, LM Studio, llama.cpp (also LocalAI), vLLM, Jan, LiteLLM, text-generation-webui and SGLang.
"""

# --- Limits, metrics, logs ------------------------------------------------------

SIGN_IN_RATE = env.text("SIGN_IN_RATE", "10/m")
RATE_LIMITS = env.rates(
    "RATE_LIMITS",
    {
        "address": "6000/m",
        "read": "1200/m",
        "write": "300/m",
        "keys": "30/m",
        "spend": "60/m",
    },
)
"""Rates such as ``60/m``: ``address`` per network address; ``read``, ``write``, ``keys`` and ``spend`` per caller.

A caller is a valid API key, a signed-in user or, if a request has neither, a network address. A single route may have
its own rate.
"""
METRICS_TOKEN: str = env.text("METRICS_TOKEN", "")
"""The bearer token for `/metrics`. If it is empty, `/metrics` returns 404 and requests are not counted."""
if METRICS_TOKEN:
    MIDDLEWARE = [
        "openhands_site.middleware.metrics.RequestMetrics",
        *MIDDLEWARE,
        "openhands_site.middleware.metrics.ViewMetrics",
    ]
    CACHES["default"]["BACKEND"] = "lib.cache.CountedRedisCache"
# Seconds. Each view and method has a series per bucket, so there are few; most requests take 2 to 50 ms.
PROMETHEUS_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, float("inf"))
PROMETHEUS_EXPORT_MIGRATIONS = False
LOG_LEVEL = env.choice("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), "INFO")
ACCESS_LOG = env.choice("ACCESS_LOG", ("all", "problems"), "all")
"""The requests with a line in the access log: all, or only those that fail or take longer than a second."""
LOG_SOCKETS = env.boolean("LOG_SOCKETS", False)
LOG_FORMAT = env.choice("LOG_FORMAT", ("json", "text"), "json")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "lib.logs.JSONFormatter"},
        "text": {"()": "lib.logs.TextFormatter"},
    },
    "filters": {
        "tokens": {"()": "lib.logs.WithoutTokens"},
        "client-faults": {"()": "lib.logs.WithoutTracebacksOfClientFaults"},
        "accept-errors": {"()": "lib.open_files.AcceptErrors"},
        "accepted-sockets": {"()": "lib.logs.WithoutAcceptedSockets"},
        "causes": {"()": "lib.causes.OneLinePerCause"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": LOG_FORMAT,
            "filters": ["causes", "client-faults", "tokens"],
        }
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "asyncio": {"filters": ["accept-errors"]},
        "procrastinate": {"level": "WARNING"},
        # This package logs a traceback every second while Redis is unavailable. lib.bus logs one line instead.
        "channels_redis": {"level": "CRITICAL"},
        "httpx2": {"level": "WARNING"},
        "mcp": {"level": "WARNING"},
        "uvicorn.access": {"level": "WARNING"},
        "uvicorn.error": {"filters": [] if LOG_SOCKETS else ["accepted-sockets"]},
        # Django's own handlers write without our filter: with DEBUG for all of Django, and for `runserver`.
        "django": {"level": "INFO", "handlers": [], "propagate": True},
        "django.server": {"level": "WARNING", "handlers": [], "propagate": True},
        # DEBUG lines of this logger contain whole template contexts, including secrets.
        "django.template": {"level": "INFO"},
        # The access log has a line for every failed request too, but without the tokens in paths.
        "django.request": {"level": "ERROR"},
    },
}
