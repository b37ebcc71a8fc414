"""Every knob of the server, each read from the environment, each with a default that runs.

docs/settings.md explains them. With none set this is one machine: SQLite, an embedded Valkey
(started by `manage.py up`), blobs in a folder. Production sets `FEDSERVER_SECRET_KEY`,
`FEDSERVER_ALLOWED_HOSTS` and, when outgrown, `DATABASE_URL`, `REDIS_URL` and `BLOBS_URL`.
"""

import os
import re
import secrets
import warnings
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import environ
from csp import constants as csp
from django.core.exceptions import ImproperlyConfigured

from fedserver import valkey

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent

# --- Where things lie -----------------------------------------------------------------------
FEDSERVER_HOME = Path(env.str("FEDSERVER_HOME", default=str(BASE_DIR / "var"))).resolve()
# The name and the password of an owner that was made by itself (fedserver/stack.py).
FIRST_OWNER = FEDSERVER_HOME / "first-owner.txt"
# Whether what was acknowledged outlives a power cut, and not only a kill. Simulations need it not.
DURABLE = env.bool("FEDSERVER_DURABLE", default=True)
BLOBS_URL = env.str("BLOBS_URL", default="")  # "s3://bucket/prefix"; empty: a folder in the home
BLOBS_ENDPOINT = env.str("BLOBS_ENDPOINT", default="")  # of an S3-compatible store


def _secret_key() -> str:
    """The key from the environment, else the one in the home, made once and kept private."""
    if key := env.str("FEDSERVER_SECRET_KEY", default=""):
        return key
    path = FEDSERVER_HOME / "secret_key"
    try:
        FEDSERVER_HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, secrets.token_urlsafe(64))
        return path.read_text()
    except OSError as error:
        raise ImproperlyConfigured(
            f"Expected a folder of ours to keep the server's data in (FEDSERVER_HOME)."
            f" Received: {FEDSERVER_HOME}, {error.strerror}"
        ) from error


def _write_once(path: Path, text: str) -> None:
    """A private file, whole from its first moment on; of several writers the first one wins."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


# --- Safety ---------------------------------------------------------------------------------
DEBUG = env.bool("FEDSERVER_DEBUG", default=False)
SECRET_KEY = _secret_key()
ALLOWED_HOSTS = env.list("FEDSERVER_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("FEDSERVER_TRUSTED_ORIGINS", default=[])
# One switch for a server that is reached by https: secure cookies, HSTS, redirects.
HTTPS = env.bool("FEDSERVER_HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = env.int("FEDSERVER_HSTS_SECONDS", default=31_536_000 if HTTPS else 0)
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
# The prefix below which a proxy shows us, and takes off: "/fedserver". The cookies are named after
# it, for a browser shows those of "/" as well, of other servers of the same host too.
ROOT_PATH = env.str("FEDSERVER_ROOT_PATH", default="").rstrip("/")
if ROOT_PATH and not re.fullmatch(r"(/[\w.~@%+-]+)+", ROOT_PATH, re.ASCII):
    raise ImproperlyConfigured(
        f"Expected a path that begins with a slash (FEDSERVER_ROOT_PATH). Received: {ROOT_PATH!r}"
    )
SESSION_COOKIE_NAME = "fedserver_session" + re.sub(r"\W", "_", ROOT_PATH)
CSRF_COOKIE_NAME = "fedserver_csrf" + re.sub(r"\W", "_", ROOT_PATH)
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = ROOT_PATH + "/"
# What participants and scripts are told to call us; empty: as the browser does that asks.
ADDRESS = env.str("FEDSERVER_ADDRESS", default="").rstrip("/")
# How many proxies stand in front; only then is their X-Forwarded-* believed.
PROXIES = env.int("FEDSERVER_PROXIES", default=0)
if PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# SAMEORIGIN where another page of the same host shows this one, as JupyterLab does.
X_FRAME_OPTIONS = env.str("FEDSERVER_FRAME_OPTIONS", default="DENY")
# What a page may load, and from where: from here, and scripts and styles from files alone. The
# two pages of the API's documentation are allowed more (fedserver/docs.py).
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [csp.SELF],
        "script-src": [csp.SELF],
        "style-src": [csp.SELF],
        "img-src": [csp.SELF, "data:", "blob:"],  # QR codes; a photo before it is sent
        "connect-src": [csp.SELF],  # the live socket too: ws: and wss: of this host are "self"
        "object-src": [csp.NONE],
        "base-uri": [csp.NONE],
        "form-action": [csp.SELF],
        "frame-ancestors": [csp.SELF if X_FRAME_OPTIONS == "SAMEORIGIN" else csp.NONE],
    }
}
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440
# A photo to try a model on stays in memory: neither disk nor database ever holds it.
MAX_PHOTO_BYTES = FILE_UPLOAD_MAX_MEMORY_SIZE = 10 * 2**20

# --- Django ---------------------------------------------------------------------------------
INSTALLED_APPS = [
    "frontend",  # before the admin, whose pages it dresses
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "accounts",
    "journal",
    "models_app",
    "rounds",
    "simulation",
    "fedserver",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "fedserver.headers.Headers",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "fedserver.urls"
ASGI_APPLICATION = "fedserver.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "frontend:sign-in"
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = f"{ROOT_PATH}/static/"
WHITENOISE_STATIC_PREFIX = "/static/"  # as it is asked: without the prefix
# The pictures belong to the SDK, whose notebooks show them too.
STATICFILES_DIRS = [("drawings", BASE_DIR / "client_sdk" / "drawings")]
# Only `collectstatic` needs it, for a proxy that serves the static files itself.
STATIC_ROOT = env.str("FEDSERVER_STATIC_ROOT", default="") or None
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
# The files of installed packages are served as they are, so that `up` needs no collectstatic.
WHITENOISE_USE_FINDERS = True
# WhiteNoise hands Django files to iterate over; they are small, and reading them whole is fine.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")

# --- Database -------------------------------------------------------------------------------
DATABASES = {
    "default": env.db_url("DATABASE_URL", default=f"sqlite:///{FEDSERVER_HOME / 'db.sqlite3'}")
}
DATABASES["default"]["CONN_MAX_AGE"] = env.int("FEDSERVER_CONN_MAX_AGE", default=60)
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = {
        # Writers queue at BEGIN instead of failing at their first write; readers never wait.
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        # FULL, for an update acknowledged must outlive a power cut.
        "init_command": "PRAGMA journal_mode=WAL; "
        f"PRAGMA synchronous={'FULL' if DURABLE else 'OFF'};",
    }

# --- Broker and live events -----------------------------------------------------------------
REDIS_URL = env.str("REDIS_URL", default=valkey.url(FEDSERVER_HOME))
REDIS_PREFIX = env.str("FEDSERVER_REDIS_PREFIX", default="fedserver:")


def _celery_broker(url: str) -> str:
    """Kombu's spelling of a Redis URL: it calls a Unix socket `redis+socket`."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


CELERY_BROKER_URL = _celery_broker(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True  # with the next line: no worker takes more than it can do at once
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
TASK_SECONDS = CELERY_TASK_TIME_LIMIT = env.int("FEDSERVER_TASK_SECONDS", default=3600)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": REDIS_PREFIX,
    # A ring of the bell is heard or lost, and the beat rings again: Redis keeps no account of it.
    # With one, a worker that acknowledges after its broker was away ends over it (Celery 5.7.0).
    "ack_emulation": False,
    "socket_keepalive": True,
    # A door that only rings the bell must not wait for a broker that is away, or frozen: the beat
    # rings too. Well above the second that a worker's own waiting for messages takes.
    "socket_connect_timeout": 3,
    "socket_timeout": 3,
    "max_retries": 1,
    "interval_start": 0,
    "interval_max": 0.2,
}
CELERY_TASK_DEFAULT_QUEUE = "steps"
# Their workers have Keras; the others never load it.
CELERY_TASK_ROUTES = {
    name: {"queue": "evaluation"}
    for name in (
        "rounds.tasks.evaluate",
        "rounds.tasks.measure_base",
        "models_app.tasks.measure",
        "models_app.tasks.answer",
    )
}
SWEEP_SECONDS = env.float("FEDSERVER_SWEEP_SECONDS", default=2.0)
CELERY_BEAT_SCHEDULE = {
    "sweep": {"task": "rounds.tasks.sweep", "schedule": SWEEP_SECONDS, "options": {"expires": 30}},
    "tidy": {"task": "rounds.tasks.tidy", "schedule": 3600.0, "options": {"expires": 600}},
}
CELERY_BEAT_SCHEDULE_FILENAME = str(FEDSERVER_HOME / "beat-schedule")

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": REDIS_PREFIX + "cache",
        # A page must not wait for a broker that is frozen: it can do without.
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    }
}

# --- Rounds ---------------------------------------------------------------------------------
# A worker holds its lease this long and renews it at a third of it.
LEASE_SECONDS = env.float("FEDSERVER_LEASE_SECONDS", default=15.0)
TOKEN_SECONDS = env.int("FEDSERVER_TOKEN_SECONDS", default=3600)
CHALLENGE_SECONDS = env.int("FEDSERVER_CHALLENGE_SECONDS", default=60)
MAX_UPDATE_BYTES = env.int("FEDSERVER_MAX_UPDATE_BYTES", default=4 * 2**30)
KEEP_UPDATES_DAYS = env.int("FEDSERVER_KEEP_UPDATES_DAYS", default=7)
MAX_MODEL_BYTES = env.int("FEDSERVER_MAX_MODEL_BYTES", default=4 * 2**30)

# --- HTTP API -------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rounds.api.authentication.ParticipantTokenAuthentication",
        "accounts.authentication.PersonalTokenAuthentication",
        "accounts.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.permissions.HasRole"],
    "DEFAULT_PAGINATION_CLASS": "accounts.pagination.Page",
    "PAGE_SIZE": 50,
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.OrderingFilter",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rounds.api.parsing.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "rounds.api.schema.ProblemAutoSchema",
    "EXCEPTION_HANDLER": "rounds.api.problems.exception_handler",
    "DEFAULT_THROTTLE_RATES": {
        "enrol": env.str("FEDSERVER_ENROL_RATE", default="60/min"),
        "tokens": env.str("FEDSERVER_TOKENS_RATE", default="600/min"),
    },
    "NUM_PROXIES": PROXIES,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "fedserver",
    "DESCRIPTION": "Federated learning: models, participants, runs, rounds and their journal.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "AssignmentState": "rounds.models.Assignment.State",
        "EvaluationState": "rounds.models.FederatedEvaluation.State",
        "ParticipantState": "rounds.models.Participant.State",
        "RoundPhase": "rounds.models.Round.Phase",
        "RunKind": "rounds.models.Run.Kind",
        "RunState": "rounds.models.Run.State",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "rounds.api.schema.add_doors",
    ],
}

# --- Logs -----------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    # The sweep would fill pages, and a refusal is an answer: both are no news.
    "loggers": {
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
    },
    "root": {"handlers": ["console"], "level": env.str("FEDSERVER_LOG_LEVEL", default="INFO")},
}
