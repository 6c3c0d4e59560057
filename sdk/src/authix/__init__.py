"""Verify Authix access tokens locally, and refuse logged-out users' tokens within milliseconds of the logout."""

from authix.claims import Claims as Claims
from authix.errors import AuthixError as AuthixError
from authix.errors import FeedStale as FeedStale
from authix.errors import NotReady as NotReady
from authix.errors import RoleMissing as RoleMissing
from authix.errors import SettingsError as SettingsError
from authix.errors import TokenError as TokenError
from authix.errors import TokenExpired as TokenExpired
from authix.errors import TokenMissing as TokenMissing
from authix.errors import TokenRevoked as TokenRevoked
from authix.errors import Unavailable as Unavailable
from authix.freshness import WhenStale as WhenStale
from authix.runtime import Authix as Authix
from authix.threaded import SyncAuthix as SyncAuthix
from authix.verifier import Verifier as Verifier
from authix.verifier_settings import VerifierOptions as VerifierOptions
from authix.verifier_settings import VerifierSettings as VerifierSettings

__version__ = "0.1.0"
