"""The parts of the ``quickstart`` command: the whole server on one machine, in one terminal.

``run`` has the order of the steps, and each other module one of them. Modules that are imported before the services
start import neither Django's models nor the settings.
"""
