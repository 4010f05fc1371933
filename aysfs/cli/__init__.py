"""The command line: the only place with click, environment variables, exit codes and rich."""
