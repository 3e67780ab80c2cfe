"""Programs that run in a sandbox, in the engine's Python: they list, open and archive files and ask Git for changes.

``conversations.engine.workspace`` sends the source of these modules with each command. They use the standard library
only, and import nothing of this project but each other. Names of files are bytes here, because a name may contain
every byte except NUL and "/".
"""
