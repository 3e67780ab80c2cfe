"""The checks of an installation, which ``manage.py doctor`` and the setup checklist of administrators show.

``manage.py doctor`` runs before the settings are loaded, so that it can also report invalid settings. Hence each check
imports the modules that need settings only when the check runs.
"""

from openhands_site.doctor.findings import FAILED, OK, SKIPPED, WARNING, Check, Finding
from openhands_site.doctor.running import run_checks

__all__ = ["FAILED", "OK", "SKIPPED", "WARNING", "Check", "Finding", "run_checks"]
