"""What a task can be: from parameters to a process."""
