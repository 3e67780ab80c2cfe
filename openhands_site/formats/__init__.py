"""Date formats of the admin site: the format of log lines, which sorts and can be searched for."""
