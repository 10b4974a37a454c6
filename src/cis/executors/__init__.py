"""Where the process of a task runs."""
