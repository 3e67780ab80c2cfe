"""Date formats of the admin site. Dates look as in log lines, so operators can search the log for them."""
