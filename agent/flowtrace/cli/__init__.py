"""The commands ``flowtrace-run`` and ``flowtrace``: everything that runs before or after the traced program."""
