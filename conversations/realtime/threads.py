"""The thread pool in which a process reads logs and checks access for all of its sockets."""

from lib.threads import DatabaseThreads

POOL = DatabaseThreads("hub", 4, keep_connections=True)
run_in_thread = POOL.run
